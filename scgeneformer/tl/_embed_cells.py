from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._docs import shared_docs
from scgeneformer._engine.aggregate import aggregate
from scgeneformer._errors import DataError
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._adata.groups import Groups
    from scgeneformer._engine.pooling import Pooling
    from scgeneformer.models import ModelLike
    from scgeneformer.tl._session import Session

AGGREGATES = ("mean", "median")


@shared_docs
def embed_cells(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    layer: int | Sequence[int] = -2,
    pooling: Literal["mean", "cls", "first"] = "mean",
    groupby: str | Sequence[str] | None = None,
    agg: Literal["mean", "median"] = "mean",
    per_cell: bool = True,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    previous_layer: str | None = None,
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
        "mean" over the genes of the cell, special tokens left out (at both time points, if the model reads two);
        "cls": the ``<cls>`` token, for models that have one; "first": the first token, whatever it is.
    groupby
        One or several columns of ``adata.obs``: also one embedding per group (the reference's state embedding).
    agg
        How the cells of a group are combined.
    per_cell
        False: only the embeddings of the groups are stored. The mean is then summed on the device, in float64, and no
        embedding of a cell is kept; the median, which needs them all, keeps them in a temporary file (in the folder
        that TMPDIR names).
    {counts}
    {previous}
    {device}
    key_added
        Key instead of "X_geneformer".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.obsm['X_geneformer' | key_added]` : float32 (n_obs, d)
        Cell embeddings, NaN for cells in which the model knows no gene. With several layers one key per layer,
        ``X_geneformer_L<n>``, n counted from 0. Not with ``per_cell=False``.
    `adata.obs['geneformer_n_tokens']` : int32
        Tokens of each cell, special ones included, after truncation.
    `adata.uns['X_geneformer' | key_added]['params']` : dict
        Model, layer, pooling and all else the numbers depend on. Not with ``per_cell=False``.
    `adata.uns['X_geneformer_<groupby>']` : DataFrame (n_groups, d)
        Mean or median over the cells of each group, if `groupby` was given.
    `adata.uns['X_geneformer_<groupby>_params']` : dict
        What these depend on.
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
    from scgeneformer._engine.pooling import get_pooling

    target = target_of(adata, copy)
    if agg not in AGGREGATES:
        raise DataError(f"agg={agg!r} does not exist; choose one of {', '.join(map(repr, AGGREGATES))}.")
    if not per_cell and groupby is None:
        raise DataError("per_cell=False stores the embeddings of groups only. Name their column: groupby='...'.")
    groups = None if groupby is None else find_groups(adata, groupby)
    session = open_session(
        adata,
        model,
        layer,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        previous_layer=previous_layer,
        device=device,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
    )
    pool = get_pooling(pooling, session.model.vocabulary)
    start = logg.info(f"embedding cells with {session.model.name}")
    cells, of_groups, n_cells, n_tokens = _run(session, pool, groups, agg, per_cell)
    warn_empty(n_tokens, adata)

    key = key_added or keys.EMBEDDING
    results = Results(obs={keys.N_TOKENS: n_tokens})
    for n in session.layers:
        params = session.params(layer=n, pooling=pooling)
        if groups is not None:
            params |= {"groupby": np.array(groups.columns), "agg": agg}
            name = keys.group_key(key, groups.columns)
            results.uns[keys.groups_table(name)] = groups.table(n_cells)
            name = keys.layer_key(name, n, len(session.layers))
            columns = [str(i) for i in range(session.model.width)]
            results.uns[name] = pd.DataFrame(of_groups[n], index=groups.names, columns=columns)
            results.uns[keys.params_key(name)] = params
        if per_cell:
            name = keys.layer_key(key, n, len(session.layers))
            results.obsm[name] = cells[n]
            results.uns[name] = {"params": params}
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _run(
    session: Session, pool: Pooling, groups: Groups | None, agg: str, per_cell: bool
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Embeddings of cells (none if they are not kept) and of groups by layer, cells of each group, tokens of each cell.

    Cells without an embedding count in no group.
    """
    from scgeneformer._engine.embedding import embed_cells as embed
    from scgeneformer._engine.embedding import embed_groups

    vocabulary, layers, budget = session.model.vocabulary, session.layers, session.tokens_per_batch
    with session.running("embed") as (n_tokens, blocks, advance):
        if groups is not None and not per_cell and agg == "mean":
            codes, n_groups = groups.codes, len(groups.names)
            means, n_cells = embed_groups(
                blocks, codes, n_groups, session.berts, vocabulary, layers, pool, budget, advance
            )
            return {}, means, n_cells, n_tokens
        new_array = _new_array if per_cell else _new_file
        cells = embed(blocks, len(n_tokens), session.berts, vocabulary, layers, pool, budget, advance, new_array)
    if groups is None:
        return cells, {}, np.empty(0), n_tokens
    found = {n: aggregate(rows, groups.codes, len(groups.names), agg) for n, rows in cells.items()}
    n_cells = found[layers[0]][1]
    return cells if per_cell else {}, {n: values for n, (values, _) in found.items()}, n_cells, n_tokens


def _new_array(shape: tuple[int, int]) -> np.ndarray:
    return np.empty(shape, dtype=np.float32)


def _new_file(shape: tuple[int, int]) -> np.ndarray:
    """Array in a temporary file, which is gone with it."""
    if not shape[0]:
        return _new_array(shape)
    with tempfile.TemporaryFile(prefix="scgeneformer-") as file:  # the map keeps it open
        return np.memmap(file, dtype=np.float32, shape=shape, mode="w+")
