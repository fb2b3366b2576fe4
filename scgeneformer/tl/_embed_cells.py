from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.disk.parts import Parts, n_filled, name_of, pieces
from scgeneformer._adata.disk.rows import Rows
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._checks import check_choice
from scgeneformer._docs import shared_docs
from scgeneformer._engine.statistics.aggregate import aggregate
from scgeneformer._errors import DataError
from scgeneformer.tl._chunks import in_chunks, refuse_store
from scgeneformer.tl._embed_cells_chunks import embed_chunks
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from anndata import AnnData

    from scgeneformer._adata.disk.run_store import RunStore
    from scgeneformer._adata.groups import Groups
    from scgeneformer._engine.pooling import Pooling
    from scgeneformer._engine.tokens import Tokens
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
    out: str | Path | None = None,
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
    {cells}
    {model}
    {layer}
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
    {out}
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

    If the counts are a dask array, the embeddings are dask arrays, nothing is computed, and `obs` gets no column. With
    `groupby` all is computed at the call, by dask.

    Raises
    ------
    DataError
        If there are no counts, the genes are unknown or of another species, the values are no counts, or `layer`,
        `pooling`, `agg` or `groupby` do not exist, or `out` holds something else. Nothing is written then.
    ModelError
        If the model cannot be used.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::7].copy()
    >>> gf.tl.embed_cells(adata, model="mini", groupby="cell_type")
    >>> adata.obsm["X_geneformer"].shape
    (100, 128)
    """
    from scgeneformer._engine.cost import cells_per_part
    from scgeneformer._engine.pooling import get_pooling

    target = target_of(adata, copy, key_added)
    check_choice(AGGREGATES, agg=agg)
    if not per_cell and groupby is None:
        raise DataError("per_cell=False stores the embeddings of groups only. Name their column: groupby='...'.")
    groups = None if groupby is None else find_groups(adata, groupby, key=key_added or keys.EMBEDDING)
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
    asked = session.params(layers=session.layers, pooling=pooling)
    if in_chunks(session):
        refuse_store(out)
        cells, of_groups, n_cells, n_tokens = embed_chunks(session, pool, groups, agg, per_cell)
    else:
        n_kept = cells_per_part(session.berts[0], max(session.layers))
        with session.kept_in(out, "embed_cells", asked, cells_per_part=n_kept) as (session, store):
            cells, of_groups, n_cells, n_tokens = _run(session, pool, groups, agg, per_cell, store)

    key, results = key_added or keys.EMBEDDING, Results()
    if n_tokens is not None:
        warn_empty(n_tokens, adata)
        results.obs[keys.N_TOKENS] = n_tokens
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
    session: Session, pool: Pooling, groups: Groups | None, agg: str, per_cell: bool, store: RunStore | None
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Embeddings of cells (none if they are not kept) and of groups by layer, cells of each group, tokens of each cell.

    Cells without an embedding count in no group.
    """
    from scgeneformer._engine.embedding import means_of, sum_groups

    layers, in_file = session.layers, None if per_cell else tempfile.gettempdir()
    with session.running("embed") as (n_tokens, blocks, advance):
        passed = (session.berts, session.model.vocabulary, layers, pool)
        if groups is not None and not per_cell and agg == "mean" and store is None:
            n_groups, budget = len(groups.names), session.tokens_per_batch
            sums = sum_groups(blocks, groups.codes, n_groups, *passed, budget, advance)
            means, n_cells = means_of(*sums)
            return {}, means, n_cells, n_tokens
        shape, folder = (len(n_tokens), session.model.width), in_file if store is None else store.path
        found = {n: Rows(shape, np.float32, folder) for n in layers}
        _embed(session, pool, blocks, found, store, advance)
    cells = {n: rows.array() for n, rows in found.items()}
    if groups is None:
        return cells, {}, np.empty(0), n_tokens
    of_groups = {n: aggregate(rows, groups.codes, len(groups.names), agg) for n, rows in cells.items()}
    n_cells = of_groups[layers[0]][1]
    return cells if per_cell else {}, {n: values for n, (values, _) in of_groups.items()}, n_cells, n_tokens


def _embed(
    session: Session,
    pool: Pooling,
    blocks: Iterable[tuple[int, Tokens]],
    found: dict[int, Rows],
    store: RunStore | None,
    advance: Callable[[int], object],
) -> None:
    """Fill `found` block by block; blocks that are in the store are read from there."""
    from scgeneformer._engine.embedding import embed_blocks

    def put(block: tuple[int, Tokens], arrays: dict[str, np.ndarray]) -> None:
        for n, rows in found.items():
            rows.put(block[0], arrays[f"L{n}"])

    def done(block: tuple[int, Tokens], rows: dict[int, np.ndarray]) -> None:
        parts.done(block, {f"L{n}": values for n, values in rows.items()})

    if store is not None:
        blocks = pieces(blocks, store.choices["cells_per_part"])
    parts = Parts(store, name_of, put, lambda block: advance(n_filled(block)))
    passed = (session.berts, session.model.vocabulary, session.layers, pool, session.tokens_per_batch)
    embed_blocks(parts.missing(blocks), *passed, done, advance)
