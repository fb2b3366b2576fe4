"""What a run over blocks of cells does with its store: skip what is there, keep what comes."""

from __future__ import annotations

import hashlib
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from scgeneformer._adata.disk.run_store import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import scipy.sparse as sp
    from anndata import AnnData

    from scgeneformer._engine.tokens import Tokens

B = TypeVar("B")
SECONDS = 60.0  # between two states that are stored
ORIGIN = ("model", "source", "revision")  # of a model: where it came from; its checksum says which it is
SHARE = 20  # times as long as it took to store the last one, at least


def open_store(
    out: str | Path | None, call: str, adata: AnnData, params: dict[str, Any], **choices: int
) -> AbstractContextManager[RunStore | None]:
    """Make the store of a run, or find it again, for the time of a ``with`` block; None if `out` is None.

    Parameters
    ----------
    out
        Folder.
    call
        What is run.
    adata
        Its cells.
    params
        What the parts depend on beside the names of the cells; where the model came from is left out.
    **choices
        As for :class:`RunStore`.
    """
    if out is None:
        return nullcontext()
    names = hashlib.sha256("\n".join(map(str, adata.obs_names)).encode()).hexdigest()
    basis = {name: value for name, value in params.items() if name not in ORIGIN or not params.get("checksum")}
    return RunStore(out, {"call": call, "cell names": names} | basis, **choices)


def checksum_of(block: tuple[int, Tokens]) -> str:
    """SHA-256 of the cells of a block as the model reads them."""
    first, tokens = block
    return _checksum(first, tokens.offsets, tokens.ids, np.empty(0) if tokens.positions is None else tokens.positions)


def name_of(block: tuple[int, Tokens]) -> tuple[str, str]:
    """Name of the part that a block of cells gives, and checksum of the block."""
    return _name(block[0]), checksum_of(block)


def name_of_counts(block: tuple[int, list[sp.csr_matrix]]) -> tuple[str, str]:
    """The same of a block of counts, at each time point."""
    first, counts = block
    return _name(first), _checksum(first, *(array for one in counts for array in (one.indptr, one.indices, one.data)))


def _name(first: int) -> str:
    return f"cells-{first:09d}"


def _checksum(first: int, *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(str(first).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def pieces(blocks: Iterable[tuple[int, Tokens]], n_cells: int) -> Iterator[tuple[int, Tokens]]:
    """Cut blocks into blocks of at most `n_cells`."""
    for first, tokens in blocks:
        for start in range(0, len(tokens), n_cells):
            yield first + start, tokens.slice(start, min(start + n_cells, len(tokens)))


def n_filled(block: tuple[int, Tokens]) -> int:
    """Cells of a block that have tokens."""
    return int(np.count_nonzero(block[1].lengths))


class Parts(Generic[B]):
    """Results of blocks, each of them a part of a store if there is one.

    Parameters
    ----------
    store
        Where they are kept, or None.
    name
        Gives name and checksum of a block.
    take
        Takes a block and its results, whether they were found in the store or have just come.
    skipped
        Is told of blocks whose results were found.
    """

    def __init__(
        self,
        store: RunStore | None,
        name: Callable[[B], tuple[str, str]],
        take: Callable[[B, dict[str, np.ndarray]], object],
        skipped: Callable[[B], object],
    ) -> None:
        self.store, self.name, self.take, self.skipped = store, name, take, skipped

    def missing(self, blocks: Iterable[B]) -> Iterator[B]:
        """Yield the blocks that have to be run."""
        for block in blocks:
            found = None if self.store is None else self.store.load(*self.name(block))
            if found is None:
                yield block
            else:
                self.take(block, found)
                self.skipped(block)

    def done(self, block: B, results: dict[str, np.ndarray]) -> None:
        """Keep the results of a block that was run."""
        if self.store is not None:
            self.store.save(*self.name(block), results)
        self.take(block, results)


class States:
    """The state of a run that adds up over cells, stored now and then in place of the one before.

    Parameters
    ----------
    store
        Where it is kept.
    skipped
        Is told how many cells the stored state already holds, block by block.
    """

    def __init__(self, store: RunStore, skipped: Callable[[int], object]) -> None:
        self.store, self.skipped = store, skipped
        self._digest = hashlib.sha256()
        self._n_blocks, self._wait = 0, SECONDS
        last = store.last()
        self.state = None if last is None else last[1]
        self._n_stored = 0 if last is None else int(last[0].rpartition("-")[2])

    def pieces(self, blocks: Iterable[tuple[int, Tokens]]) -> Iterator[Iterator[tuple[int, Tokens]]]:
        """Yield the blocks that the state lacks in pieces, each of which ends when it is time to :meth:`save`."""
        left = self._missing(blocks)
        for block in left:
            yield self._until_due(block, left)

    def save(self, state: dict[str, np.ndarray]) -> None:
        """Store the state behind the blocks so far."""
        start = time.monotonic()
        self.store.replace(f"state-{self._n_blocks:09d}", self._digest.hexdigest(), state)
        self._wait = max(SECONDS, SHARE * (time.monotonic() - start))

    def _missing(self, blocks: Iterable[tuple[int, Tokens]]) -> Iterator[tuple[int, Tokens]]:
        for block in blocks:
            self._digest.update(checksum_of(block).encode())
            self._n_blocks += 1
            if self._n_blocks > self._n_stored:
                yield block
                continue
            self.skipped(n_filled(block))
            if self._n_blocks == self._n_stored:  # refuses a state of other cells
                self.store.refuse_others(f"state-{self._n_blocks:09d}", self._digest.hexdigest())

    def _until_due(self, block: tuple[int, Tokens], left: Iterator[tuple[int, Tokens]]) -> Iterator[tuple[int, Tokens]]:
        start = time.monotonic()
        yield block
        while time.monotonic() < start + self._wait and (following := next(left, None)) is not None:
            yield following
