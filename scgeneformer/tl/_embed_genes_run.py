"""How `gf.tl.embed_genes` gets from a session to sums or medians: in one pass, with a store, or chunk by chunk."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata.disk.parts import States
from scgeneformer._adata.groups import groups_and_rest
from scgeneformer._engine.tokens import only_cells
from scgeneformer._errors import OutOfMemoryError
from scgeneformer.tl._chunks import in_chunks, refuse_store
from scgeneformer.tl._embed_genes_chunks import embed_chunks

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from scgeneformer._adata.disk.run_store import RunStore
    from scgeneformer._adata.groups import Groups
    from scgeneformer._engine.gene_median import GeneMedians
    from scgeneformer._engine.gene_sums import GeneSums
    from scgeneformer.tl._session import Session


def room_for_cells(n_obs: int, n_genes: int, session: Session) -> dict[int, np.ndarray]:
    """Where the embeddings of some genes in every cell go, (n_obs, n_genes, d) float32 by layer, full of NaN."""
    shape = (n_obs, n_genes, session.model.width)
    n_bytes = float(np.prod(shape)) * 4 * len(session.layers)
    try:
        return {n: np.full(shape, np.nan, dtype=np.float32) for n in session.layers}
    except MemoryError as error:
        raise OutOfMemoryError(
            f"Embeddings of {n_genes:,} genes in {n_obs:,} cells take {n_bytes / 1e9:.3g} GB, more than is free. Name "
            "fewer genes (genes=[...]) or layers, or embed part of the cells at a time."
        ) from error


def run(
    session: Session,
    groups: Groups | None,
    slot_of_token: np.ndarray,
    n_slots: int,
    agg: str,
    cells: np.ndarray,
    states: dict[int, np.ndarray] | None,
    max_memory_gb: float,
    out: str | Path | None,
) -> tuple[GeneSums | GeneMedians, np.ndarray]:
    """One pass over the cells; the result for every group, cells without a label as one more; and the cells used."""
    from scgeneformer._engine.gene_median import count_tokens, gene_medians
    from scgeneformer._engine.gene_states import GeneStates
    from scgeneformer._engine.gene_sums import gene_sums

    codes, n_groups = groups_and_rest(groups, len(cells))
    if agg != "median" and in_chunks(session):  # a median needs all values in one place
        refuse_store(out)
        return embed_chunks(session, codes, n_groups, slot_of_token, n_slots, agg == "var", cells, states)
    beside = None if states is None else [GeneStates(states, slot_of_token) for _ in session.berts]
    counts = None
    if agg == "median":
        counts = count_tokens(only_cells(session.source.counted()[1], cells), slot_of_token, n_slots)
    with (
        _store(out, session, codes, slot_of_token, cells, agg) as (session, store),
        session.running("embed genes", int(cells.sum())) as (n_tokens, blocks, advance),
    ):
        passed = (only_cells(blocks, cells), session.berts, session.layers, session.tokens_per_batch)
        asked = (codes, n_groups, slot_of_token, n_slots)
        found: GeneSums | GeneMedians
        if store is not None:
            found = _sum_and_store(store, passed, asked, agg == "var", advance)
        elif counts is None:
            found = gene_sums(*passed, *asked, squares=agg == "var", beside=beside, advance=advance)
        else:
            most = max_memory_gb * 1e9
            found = gene_medians(*passed, *asked, n_of_slot=counts, max_bytes=most, beside=beside, advance=advance)
    return found, cells & (n_tokens > 0)


def _store(
    out: str | Path | None, session: Session, codes: np.ndarray, slot_of_token: np.ndarray, cells: np.ndarray, agg: str
) -> AbstractContextManager[tuple[Session, RunStore | None]]:
    """The session with the batches of the run that made the store, and the store."""
    arrays = {"groups": codes, "genes asked for": slot_of_token, "cells": cells}
    asked = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    return session.kept_in(out, "embed_genes", session.params(layers=session.layers, agg=agg, **asked))


def _sum_and_store(
    store: RunStore,
    passed: tuple[Any, ...],
    asked: tuple[Any, ...],
    squares: bool,
    advance: Callable[[int], object],
) -> GeneSums:
    """Go on with the sums in the store, and store them now and then."""
    from scgeneformer._engine.gene_sums import GeneSums, gene_sums

    blocks, *others = passed
    states = States(store, advance)
    found = None if states.state is None else GeneSums.from_arrays(states.state)
    for piece in states.pieces(blocks):
        found = gene_sums(piece, *others, *asked, squares=squares, start=found, advance=advance)
        states.save(found.to_arrays())
    return gene_sums((), *others, *asked, squares=squares) if found is None else found
