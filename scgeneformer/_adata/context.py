"""What a model is told of a cell beside its genes: values of columns of `obs`, such as the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.frames import in_memory

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer._engine.vocabulary import Vocabulary

NAMED = 3  # values in a message


def find_context(adata: AnnData, vocabulary: Vocabulary) -> np.ndarray | None:
    """Token of each column of the context, (n_obs, n_columns) int32; None if the model reads no context.

    Values that the model does not know, missing ones, and columns that `adata` lacks become ``<mask>``, which a model
    has seen in training; a warning names them.
    """
    if not vocabulary.encoding.context:
        return None
    unknown, present = vocabulary.special["<mask>"], [c for c in vocabulary.encoding.context if c in adata.obs]
    frame = in_memory(adata.obs, present)
    found = np.full((adata.n_obs, len(vocabulary.encoding.context)), unknown, dtype=np.int32)
    for place, column in enumerate(vocabulary.encoding.context):
        if column not in present:
            logg.warning(f"adata.obs has no column {column!r}, which the model reads: taken as unknown for all cells")
            continue
        tokens, values = vocabulary.tokens_of_context(column), frame[column].astype(object)
        text = values.where(values.isna(), values.astype(str))
        found[:, place] = text.map(tokens).fillna(unknown).astype(np.int32)
        if new := sorted(set(text.dropna()) - set(tokens)):
            named = ", ".join(map(repr, new[:NAMED])) + (", ..." if len(new) > NAMED else "")
            logg.warning(f"adata.obs[{column!r}] holds {named}, which the model has not seen: taken as unknown")
    return found
