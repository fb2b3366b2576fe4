"""Data sets that need no download, and tokens as the reference stores them."""

from scgeneformer.datasets._pbmc68k import pbmc68k
from scgeneformer.datasets._read_tokens import read_tokens
from scgeneformer.datasets._write_tokens import write_tokens

__all__ = ["pbmc68k", "read_tokens", "write_tokens"]
