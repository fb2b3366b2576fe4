"""`gf.tl.embed_genes` of cells that are read from dask arrays: sums of chunks, added up as a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scgeneformer.tl._chunks import over_chunks

if TYPE_CHECKING:
    from scgeneformer._engine.gene_sums import GeneSums
    from scgeneformer.tl._session import Session


class Sums(NamedTuple):
    """What is found over some chunks.

    Parameters
    ----------
    genes
        Sums over all of their cells.
    used
        Which cells count, by the first row of the chunk.
    states
        Embeddings of the genes in each cell by layer, likewise; empty unless asked for.
    """

    genes: GeneSums
    used: dict[int, np.ndarray]
    states: dict[int, dict[int, np.ndarray]]


def embed_chunks(
    session: Session,
    codes: np.ndarray,
    n_groups: int,
    slot_of_token: np.ndarray,
    n_slots: int,
    squares: bool,
    cells: np.ndarray,
    states: dict[int, np.ndarray] | None,
) -> tuple[GeneSums, np.ndarray]:
    """Sums over all cells that were chosen, and which of these count; fills `states` if it is there."""
    codes = codes.astype(np.min_scalar_type(-n_groups - 1))  # as small as can be, to be sent
    asked = (n_groups, slot_of_token, n_slots, squares, states is not None)
    (found,) = over_chunks(session, "embed genes", _sums_of, *asked, rows=[codes, cells], chosen=cells, merge=_added)
    used = np.zeros(len(cells), dtype=bool)
    for first, some in found.used.items():
        used[first : first + len(some)] = some
    for first, by_layer in found.states.items():
        for n, values in by_layer.items():
            assert states is not None
            states[n][first : first + len(values)] = values
    return found.genes, used


def _sums_of(
    session: Session,
    n_groups: int,
    slot_of_token: np.ndarray,
    n_slots: int,
    squares: bool,
    per_cell: bool,
    codes: np.ndarray,
    cells: np.ndarray,
) -> Sums:
    from scgeneformer._engine.gene_states import GeneStates
    from scgeneformer._engine.gene_sums import gene_sums
    from scgeneformer._engine.tokens import only_cells

    shape = (len(cells), n_slots, session.model.width)
    states = {n: np.full(shape, np.nan, dtype=np.float32) for n in session.layers} if per_cell else None
    beside = None if states is None else [GeneStates(states, slot_of_token) for _ in session.berts]
    with session.running("embed genes") as (n_tokens, blocks, advance):
        passed = (only_cells(blocks, cells), session.berts, session.layers, session.tokens_per_batch)
        asked = (codes.astype(np.int64), n_groups, slot_of_token, n_slots)
        found = gene_sums(*passed, *asked, squares=squares, beside=beside, advance=advance)
    assert session.first is not None
    return Sums(found, {session.first: cells & (n_tokens > 0)}, {} if states is None else {session.first: states})


def _added(parts: list[Sums]) -> Sums:
    from scgeneformer._engine.gene_sums import GeneSums, add_up

    first, *others = (part.genes for part in parts)
    sums, squares = ({n: values.copy() for n, values in of.items()} for of in (first.sums, first.squares))
    genes = add_up([GeneSums(sums, squares, first.n_cells.copy()), *others])
    used = {row: some for part in parts for row, some in part.used.items()}
    return Sums(genes, used, {row: some for part in parts for row, some in part.states.items()})
