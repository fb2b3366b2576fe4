"""Run a function over the cells chunk by chunk, where dask computes, if they are read from dask arrays."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.dask_chunks import RowChunks, client_in_scope, compute, is_dask
from scgeneformer._errors import DataError, ModelError
from scgeneformer._progress import progress
from scgeneformer.models._reference import UNNAMED, Unnamed, refer_to
from scgeneformer.tl._session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import dask.array as da

    from scgeneformer._adata.dask_chunks import Parts
    from scgeneformer._adata.tokens import CellTokens
    from scgeneformer.models._reference import Reference

_one_at_a_time = threading.Lock()  # a model takes all processors, or the device; the other threads read their chunks


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a task needs to open a session on its chunk: the name of the model, never its weights.

    Parameters
    ----------
    model
        Where the model is found.
    source
        How cells are read, without the cells.
    layers, dtype, device, budget
        As in :class:`Session`; devices are those of the process that runs the task.
    """

    model: Reference | Unnamed
    source: CellTokens
    layers: list[int]
    dtype: str
    device: str | Sequence[str]
    budget: int | None

    def open(self, first: int, matrices: Sequence[Any]) -> Session:
        """The session on a chunk, whose first cell has this number."""
        from scgeneformer._engine.cost import choose_tokens_per_batch
        from scgeneformer._engine.device import resolve_devices

        everywhere = [self.model.load(str(one), self.dtype) for one in resolve_devices(self.device)]
        return Session(
            model=everywhere[0],
            berts=[each.bert for each in everywhere],
            source=self.source.of_rows(matrices),
            layers=self.layers,
            tokens_per_batch=choose_tokens_per_batch(everywhere[0].bert, self.budget),
            dtype=self.dtype,
            first=first,
        )


def in_chunks(session: Session) -> bool:
    """Whether the cells are read from a dask array."""
    return is_dask(session.source.stored[0])


def refuse_store(out: str | Path | None) -> None:
    """Refuse to keep parts of what dask computes.

    Raises
    ------
    DataError
        If `out` is given.
    """
    if out is not None:
        raise DataError(
            f"out={str(out)!r} keeps the parts of a run in one process, and the counts are a dask array, whose chunks "
            "dask computes. Leave it out; embeddings of cells are kept by writing them: adata.write_zarr(path)."
        )


def over_chunks(
    session: Session,
    doing: str,
    function: Callable[..., Any],
    *args: Any,
    rows: Sequence[np.ndarray] = (),
    chosen: np.ndarray | None = None,
    merge: Callable[[list[Any]], Any] | None = None,
) -> list[Any]:
    """Compute ``function(session, *args, *rows)`` for each chunk, on a session and rows of its own.

    Parameters
    ----------
    session
        On all cells.
    doing
        What the progress bar says.
    function, args
        The function of a module, and what all chunks share.
    rows
        Arrays with an entry for each cell.
    chosen
        Cells that count, (n_obs,) bool: chunks without any may be left out.
    merge
        As for :func:`compute`.

    Raises
    ------
    ModelError
        If other processes compute, and could not find the model.
    """
    _, parts = _parts(session, function, args, rows, chosen)
    n_cells, client = parts.n_rows, client_in_scope()
    where = "in this process" if client is None else f"on {client.scheduler.address}"
    logg.info(f"    {n_cells:,} cells in {len(parts.sizes):,} chunks, computed by dask {where}")
    with progress(n_cells, doing) as advance:
        return compute(parts, advance, merge)


def lazy_rows(session: Session, function: Callable[..., dict[int, np.ndarray]], *args: Any) -> dict[int, da.Array]:
    """Dask arrays (n_obs, d) float32 of ``function(session, *args)``, rows by layer; nothing is computed."""
    chunks, parts = _parts(session, function, args)
    shape, dtype = (session.model.width,), np.float32
    return {n: chunks.stack(parts, itemgetter(n), shape, dtype) for n in session.layers}


def _parts(
    session: Session,
    function: Callable[..., Any],
    args: Sequence[Any],
    rows: Sequence[np.ndarray] = (),
    chosen: np.ndarray | None = None,
) -> tuple[RowChunks, Parts]:
    model = refer_to(session.model)
    if isinstance(model, Unnamed) and client_in_scope() is not None:
        raise ModelError(f"The model {session.model.name!r} {UNNAMED}")
    chunks = RowChunks(session.source.stored)
    source = session.source.without_data()
    recipe = Recipe(model, source, session.layers, session.dtype, session.device, session.budget)
    return chunks, chunks.map(_on_chunk, (recipe, function, tuple(args)), *rows, chosen=chosen)


def _on_chunk(
    shared: tuple[Recipe, Callable[..., Any], tuple[Any, ...]],
    first: int,
    matrices: Sequence[Any],
    *rows: np.ndarray,
) -> Any:
    recipe, function, args = shared
    with _one_at_a_time:
        return function(recipe.open(first, matrices), *args, *rows)
