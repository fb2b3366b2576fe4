"""Tools: tokens and embeddings."""

from scgeneformer.tl._embed_cells import embed_cells
from scgeneformer.tl._tokenize import tokenize

__all__ = ["embed_cells", "tokenize"]
