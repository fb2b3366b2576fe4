from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from scgeneformer._adata.groups import Groups
    from scgeneformer.models import ModelLike

AGGREGATES: dict[str, Callable[..., np.ndarray]] = {"mean": np.nanmean, "median": np.nanmedian}


@shared_docs
def embed_cells(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    layer: int | Sequence[int] = -2,
    pooling: Literal["mean", "cls", "first"] = "mean",
    groupby: str | Sequence[str] | None = None,
    agg: Literal["mean", "median"] = "mean",
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    device: str | Sequence[str] = "auto",
    dtype: str = "auto",
    tokens_per_batch: int | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Embed every cell with Geneformer.

    Each cell is rank-value encoded, run through the model as far as the deepest hidden layer asked for, and its
    tokens' hidden states are pooled (`EmbExtractor` of the reference with ``emb_mode="cell"`` or "cls"; its
    ``emb_layer=-1`` is ``layer=-2`` here, its ``emb_layer=0`` is ``layer=-1``). Rows are neither dropped nor moved.

    Parameters
    ----------
    adata
        Cells × genes, with raw or log1p-normalised counts.
    {model}
    layer
        Hidden layer: 0 = embedding output, n = after block n, negative from the end (-1 last, -2 second to last).
        A list is computed in one pass.
    pooling
        "mean" over the genes of the cell, special tokens left out; "cls": the ``<cls>`` token, for models that have
        one; "first": the first token, whatever it is.
    groupby
        One or several columns of ``adata.obs``: also one embedding per group (the reference's state embedding).
    agg
        How the cells of a group are combined.
    {counts}
    {device}
    key_added
        Key instead of "X_geneformer".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.obsm['X_geneformer' | key_added]` : float32 (n_obs, d)
        Cell embeddings, NaN for cells in which the model knows no gene. With several layers one key per layer,
        ``X_geneformer_L<n>``, n counted from 0.
    `adata.obs['geneformer_n_tokens']` : int32
        Tokens of each cell, special ones included, after truncation.
    `adata.uns['X_geneformer' | key_added]['params']` : dict
        Model, layer, pooling and all else the numbers depend on.
    `adata.uns['X_geneformer_<groupby>']` : DataFrame (n_groups, d)
        Mean or median over the cells of each group, if `groupby` was given.
    `adata.uns['X_geneformer_<groupby>_groups']` : DataFrame (n_groups, n_columns + 1)
        Labels and number of embedded cells of each group.

    Raises
    ------
    DataError
        If there are no counts, the genes are unknown or of another species, the values are no counts, or `layer`,
        `pooling`, `agg` or `groupby` do not exist. Nothing is written then.
    ModelError
        If the model cannot be used.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> gf.tl.embed_cells(adata, model="mini", groupby="cell_type")
    >>> adata.obsm["X_geneformer"].shape
    (700, 128)
    """
    from scgeneformer._engine.embedding import embed_cells as embed
    from scgeneformer._engine.pooling import get_pooling

    target = target_of(adata, copy)
    if agg not in AGGREGATES:
        raise DataError(f"agg={agg!r} does not exist; choose one of {', '.join(map(repr, AGGREGATES))}.")
    groups = None if groupby is None else find_groups(adata, groupby)
    session = open_session(
        adata,
        model,
        layer,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        device=device,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
    )
    vocabulary, layers = session.model.vocabulary, session.layers
    pool = get_pooling(pooling, vocabulary)
    start = logg.info(f"embedding cells with {session.model.name}")
    with session.running("embed") as (n_tokens, blocks, advance):
        found = embed(blocks, adata.n_obs, session.berts, vocabulary, layers, pool, session.tokens_per_batch, advance)
    warn_empty(n_tokens, adata)

    key = key_added or keys.EMBEDDING
    results = Results(obs={keys.N_TOKENS: n_tokens})
    for n in layers:
        name = keys.layer_key(key, n, len(layers))
        params = session.params(layer=n, pooling=pooling)
        results.obsm[name] = found[n]
        results.uns[name] = {"params": params}
        if groups is not None:
            results.uns[name]["params"] |= {"groupby": np.array(groups.columns), "agg": agg}
            results.uns |= _aggregate(found[n], groups, agg, keys.group_key(key, groups.columns), n, len(layers))
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _aggregate(
    cells: np.ndarray, groups: Groups, agg: str, key: str, layer: int, n_layers: int
) -> dict[str, pd.DataFrame]:
    """Embedding of each group, and the table of the groups; cells without embedding count in none."""
    used = np.where(np.isnan(cells[:, 0]), -1, groups.codes)
    values = np.full((len(groups.names), cells.shape[1]), np.nan, dtype=np.float32)
    for code in np.unique(used[used >= 0]):
        values[code] = AGGREGATES[agg](cells[used == code].astype(np.float64), axis=0)
    columns = [str(i) for i in range(cells.shape[1])]
    n_cells = np.bincount(used[used >= 0], minlength=len(groups.names))
    return {
        keys.layer_key(key, layer, n_layers): pd.DataFrame(values, index=groups.names, columns=columns),
        f"{key}_groups": groups.frame.assign(n_cells=n_cells),
    }
