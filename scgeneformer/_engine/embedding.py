"""One vector per cell, or per group of cells: pooled hidden states, reduced on the device."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine.packing import to_device
from scgeneformer._engine.run import run
from scgeneformer._engine.to_host import ToHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from transformers import BertModel

    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.pooling import Pooling
    from scgeneformer._engine.run import Consumer
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary


def embed_cells(
    blocks: Iterable[tuple[int, Tokens]],
    n_cells: int,
    berts: list[BertModel],
    vocabulary: Vocabulary,
    layers: list[int],
    pooling: Pooling,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda n: None,
) -> dict[int, np.ndarray]:
    """Cell embeddings of one or several layers in one pass.

    Parameters
    ----------
    blocks, berts, layers, tokens_per_batch, advance
        As in :func:`run.run`.
    n_cells
        Number of cells in all blocks.
    vocabulary
        Tells the pooling where the special tokens are.
    pooling
        Function of `pooling.POOLINGS`.

    Returns
    -------
    (n_cells, d) float32 by layer; NaN rows for cells without tokens.
    """
    found = {n: np.empty((n_cells, berts[0].config.hidden_size), dtype=np.float32) for n in layers}

    def put(block: tuple[int, Tokens], rows: dict[int, np.ndarray]) -> None:
        for n, values in rows.items():
            found[n][block[0] : block[0] + len(values)] = values

    embed_blocks(blocks, berts, vocabulary, layers, pooling, tokens_per_batch, put, advance)
    return found


def embed_blocks(
    blocks: Iterable[tuple[int, Tokens]],
    berts: list[BertModel],
    vocabulary: Vocabulary,
    layers: list[int],
    pooling: Pooling,
    tokens_per_batch: int,
    done: Callable[[tuple[int, Tokens], dict[int, np.ndarray]], object],
    advance: Callable[[int], object] = lambda n: None,
) -> None:
    """Cell embeddings of one or several layers in one pass, handed on block by block.

    Parameters
    ----------
    blocks, berts, vocabulary, layers, pooling, tokens_per_batch, advance
        As in :func:`embed_cells`.
    done
        Takes a block once all its cells are embedded, and their embeddings, (n, d) float32 by layer, NaN rows for cells
        without tokens. One call at a time.
    """
    opened = BlocksOfCells(blocks, layers, berts[0].config.hidden_size, done)
    consumers: list[list[Consumer]] = [[CellEmbeddings(opened, vocabulary, pooling)] for _ in berts]
    run(opened, berts, layers, tokens_per_batch, consumers, advance)


def sum_groups(
    blocks: Iterable[tuple[int, Tokens]],
    group_of_cell: np.ndarray,
    n_groups: int,
    berts: list[BertModel],
    vocabulary: Vocabulary,
    layers: list[int],
    pooling: Pooling,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda n: None,
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Sum of the cell embeddings of each group, without keeping those of the cells; :func:`means_of` gives the mean.

    Parameters
    ----------
    group_of_cell, n_groups
        As in :class:`GroupSums`.
    blocks, berts, vocabulary, layers, pooling, tokens_per_batch, advance
        As in :func:`embed_cells`.

    Returns
    -------
    (n_groups, d) float64 by layer, and the cells of each group, (n_groups,) int64.
    """
    width = berts[0].config.hidden_size
    workers = [GroupSums(b.device, width, layers, group_of_cell, n_groups, vocabulary, pooling) for b in berts]
    run(blocks, berts, layers, tokens_per_batch, [[worker] for worker in workers], advance)
    n_cells = np.sum([worker.n_cells for worker in workers], axis=0)
    return {n: np.sum([worker.sums[n] for worker in workers], axis=0) for n in layers}, n_cells


def means_of(sums: dict[int, np.ndarray], n_cells: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Mean of each group, float32, NaN where it has no cell, from what :func:`sum_groups` gives; and its cells."""
    divisor = np.where(n_cells > 0, n_cells, np.nan)[:, None]
    return {n: (values / divisor).astype(np.float32) for n, values in sums.items()}, n_cells


@dataclass(eq=False)
class _Open:
    """A block, its embeddings by layer, and how many of its cells have none yet."""

    block: tuple[int, Tokens]
    rows: dict[int, np.ndarray]
    waiting: int


class BlocksOfCells:
    """The blocks of a run, and the embeddings of those that are not complete.

    Parameters
    ----------
    blocks, layers, done
        As in :func:`embed_blocks`.
    width
        Of the embeddings.
    """

    def __init__(
        self,
        blocks: Iterable[tuple[int, Tokens]],
        layers: list[int],
        width: int,
        done: Callable[[tuple[int, Tokens], dict[int, np.ndarray]], object],
    ) -> None:
        self.blocks, self.layers, self.width, self.done = blocks, layers, width, done
        self._open: dict[int, _Open] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[tuple[int, Tokens]]:
        """Yield the blocks; one without tokens is complete at once."""
        for first, tokens in self.blocks:
            rows = {n: np.full((len(tokens), self.width), np.nan, dtype=np.float32) for n in self.layers}
            with self._lock:  # devices work in threads
                self._open[first] = _Open((first, tokens), rows, int((tokens.lengths > 0).sum()))
                self._close_if_complete(first)
            yield first, tokens

    def put(self, cells: np.ndarray, found: dict[int, np.ndarray]) -> None:
        """Take the embeddings, by layer, of some cells of one block."""
        with self._lock:
            first = max(begin for begin in self._open if begin <= cells[0])
            one = self._open[first]
            for n, values in found.items():
                one.rows[n][cells - first] = values
            one.waiting -= len(cells)
            self._close_if_complete(first)

    def _close_if_complete(self, first: int) -> None:
        if not self._open[first].waiting:
            one = self._open.pop(first)
            self.done(one.block, one.rows)


class CellEmbeddings(ToHost):
    """Consumer that pools each cell and puts its row into its block on the host.

    Parameters
    ----------
    blocks
        Where the rows go.
    vocabulary, pooling
        As in :func:`embed_cells`.
    """

    def __init__(self, blocks: BlocksOfCells, vocabulary: Vocabulary, pooling: Pooling) -> None:
        super().__init__()
        self.blocks, self.vocabulary, self.pooling = blocks, vocabulary, pooling

    def select(self, batch: Batch) -> tuple[np.ndarray, dict[int, torch.Tensor]]:
        """Pool the cells."""
        pooled = {n: self.pooling(batch.states[n], batch.packed, self.vocabulary) for n in self.blocks.layers}
        return batch.cells, pooled

    def store(self, place: np.ndarray, rows: dict[int, np.ndarray]) -> None:
        """Put the rows of the cells in their places."""
        self.blocks.put(place, rows)


class GroupSums:
    """Consumer that sums the pooled embeddings of the cells of each group; no cell is kept.

    Parameters
    ----------
    device, width
        Of the hidden states.
    layers
        Hidden layers, counted from 0.
    group_of_cell
        Group of each cell, (n_cells,) int64, -1 for none.
    n_groups
        Number of groups.
    vocabulary, pooling
        As in :func:`embed_cells`.
    """

    def __init__(
        self,
        device: torch.device,
        width: int,
        layers: list[int],
        group_of_cell: np.ndarray,
        n_groups: int,
        vocabulary: Vocabulary,
        pooling: Pooling,
    ) -> None:
        self.group_of_cell, self.vocabulary, self.pooling = group_of_cell, vocabulary, pooling
        shape, dtype = (n_groups + 1, width), torch.float64  # the last row takes the cells of no group
        self._sums = {n: torch.zeros(shape, dtype=dtype, device=device) for n in layers}
        self.n_cells = np.zeros(n_groups, dtype=np.int64)
        self.sums: dict[int, np.ndarray] = {}

    def add(self, batch: Batch) -> None:
        """Add the cells of the batch."""
        codes = self.group_of_cell[batch.cells]
        self.n_cells += np.bincount(codes[codes >= 0], minlength=len(self.n_cells))
        place = to_device(np.where(codes >= 0, codes, len(self.n_cells)), batch.packed.ids.device)
        for layer, sums in self._sums.items():
            pooled = self.pooling(batch.states[layer], batch.packed, self.vocabulary)
            sums.index_add_(0, place, pooled.double())

    def finish(self) -> None:
        """Copy the sums to the host."""
        self.sums = {n: sums[:-1].cpu().numpy() for n, sums in self._sums.items()}
