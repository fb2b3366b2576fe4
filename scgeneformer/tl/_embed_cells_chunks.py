"""`gf.tl.embed_cells` of cells that are read from dask arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._engine.statistics.aggregate import aggregate
from scgeneformer.tl._chunks import lazy_rows, over_chunks

if TYPE_CHECKING:
    from scgeneformer._adata.groups import Groups
    from scgeneformer._engine.pooling import Pooling
    from scgeneformer.tl._session import Session

    Sums = tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]  # by layer; cells of each group; tokens of each cell


def embed_chunks(
    session: Session, pool: Pooling, groups: Groups | None, agg: str, per_cell: bool
) -> tuple[dict[int, Any], dict[int, np.ndarray], np.ndarray, np.ndarray | None]:
    """Embeddings of cells and of groups by layer, cells of each group, tokens of each cell.

    Without groups the embeddings are dask arrays, nothing is computed, and of the tokens nothing is known.
    """
    if groups is None:
        return lazy_rows(session, _rows_of, pool), {}, np.empty(0), None
    n_groups = len(groups.names)
    if not per_cell and agg == "mean":
        return {}, *group_means(session, "embed", pool, groups.codes, n_groups)
    parts = over_chunks(session, "embed", _cells_of, pool)
    cells = {n: np.concatenate([rows[n] for rows, _ in parts]) for n in session.layers}
    n_tokens = np.concatenate([lengths for _, lengths in parts])
    found = {n: aggregate(rows, groups.codes, n_groups, agg) for n, rows in cells.items()}
    means = {n: values for n, (values, _) in found.items()}
    return cells if per_cell else {}, means, found[session.layers[0]][1], n_tokens


def _rows_of(session: Session, pool: Pooling) -> dict[int, np.ndarray]:
    return _cells_of(session, pool)[0]


def _cells_of(session: Session, pool: Pooling) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Embeddings of the cells by layer, and their tokens."""
    from scgeneformer._engine.embedding import embed_cells

    with session.running("embed") as (n_tokens, blocks, advance):
        passed = (session.berts, session.model.vocabulary, session.layers, pool, session.tokens_per_batch)
        return embed_cells(blocks, len(n_tokens), *passed, advance), n_tokens


def group_means(
    session: Session, doing: str, pool: Pooling, codes: np.ndarray, n_groups: int, chosen: np.ndarray | None = None
) -> Sums:
    """Mean embedding of each group by layer, its cells, and the tokens of all cells (of chunks with a chosen one)."""
    from scgeneformer._engine.embedding import means_of

    small = codes.astype(np.min_scalar_type(-n_groups - 1))  # as small as can be, to be sent
    passed = (session, doing, _sums_of, pool, n_groups)
    ((sums, n_cells, n_tokens),) = over_chunks(*passed, rows=[small], chosen=chosen, merge=_added)
    return *means_of(sums, n_cells), n_tokens


def _sums_of(session: Session, pool: Pooling, n_groups: int, codes: np.ndarray) -> Sums:
    from scgeneformer._engine.embedding import sum_groups
    from scgeneformer._engine.tokens import only_cells

    with session.running("embed") as (n_tokens, blocks, advance):
        passed = (session.berts, session.model.vocabulary, session.layers, pool, session.tokens_per_batch)
        labelled = only_cells(blocks, codes >= 0)
        return *sum_groups(labelled, codes.astype(np.int64), n_groups, *passed, advance), n_tokens


def _added(parts: list[Sums]) -> Sums:
    sums = {n: np.sum([one[n] for one, _, _ in parts], axis=0) for n in parts[0][0]}
    return sums, np.sum([n for _, n, _ in parts], axis=0), np.concatenate([lengths for _, _, lengths in parts])
