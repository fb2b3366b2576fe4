"""The counts of the same cells at an earlier time, for models that read two time points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.counts import Counts, open_counts
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer._engine.vocabulary import Vocabulary

PREVIOUS = "previous_layer"  # in params
PreviousLayer = str | Literal[False] | None


def find_previous(
    adata: AnnData, vocabulary: Vocabulary, previous_layer: PreviousLayer, use_raw: bool | None
) -> Counts | None:
    """Counts before, if the model reads two time points; None if it reads one.

    Parameters
    ----------
    adata
        The data.
    vocabulary
        Of the model.
    previous_layer
        Layer that holds them; None: the one that stored tokens were made from; False: whoever asks cannot read them.
    use_raw
        Whether the counts now are those of ``adata.raw``.

    Raises
    ------
    DataError
        If there is a layer for a model that reads one time point, or none for one that reads two, the input size has
        no room for a gene of each, or the counts now are in ``adata.raw``.
    MissingKeyError
        If there is no such layer.
    """
    if vocabulary.encoding.n_times == 1:
        if previous_layer:
            raise DataError(
                f"The model reads one time point of a cell, and previous_layer={previous_layer!r} names another. Train "
                f"one that reads two: gf.tl.train_classifier(..., previous_layer={previous_layer!r}); or leave "
                "previous_layer out."
            )
        return None
    if previous_layer is False:
        raise DataError(
            "The model reads two time points of a cell, and this function works on one, in which a gene occurs once. "
            "Take a model that reads one time point, such as that from which this one was trained."
        )
    if use_raw:
        raise DataError(
            "use_raw=True and two time points: adata.raw may have other genes than the layer with the counts before. "
            "Put the counts now into adata.X or a layer: counts_layer='...'."
        )
    if vocabulary.max_genes < 1:
        raise DataError(
            f"{vocabulary.input_size} tokens have no room for a gene of each time point beside {vocabulary.n_special} "
            f"special tokens. Allow more, at least {vocabulary.n_special + 2}."
        )
    return open_counts(adata, _stored(adata) if previous_layer is None else previous_layer, previous=True)


def _stored(adata: AnnData) -> str:
    """The layer that stored tokens were made from."""
    layer = adata.uns.get(keys.TOKENS, {}).get("params", {}).get(PREVIOUS)
    if layer is None:
        raise DataError(
            "The model reads two time points of a cell. Name the layer with the counts before: previous_layer='...'."
        )
    logg.info(f"    taking previous_layer={str(layer)!r}, as stored tokens do")
    return str(layer)
