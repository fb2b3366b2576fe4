"""One vector per cell, or per group of cells: pooled hidden states, reduced on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine.packing import to_device
from scgeneformer._engine.run import run
from scgeneformer._engine.to_host import ToHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import BertModel

    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.pooling import Pooling
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
    new_array: Callable[[tuple[int, int]], np.ndarray] = lambda shape: np.empty(shape, dtype=np.float32),
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
    new_array
        Gives a float32 array of a shape, in memory unless it says otherwise.

    Returns
    -------
    (n_cells, d) float32 by layer; NaN rows for cells without tokens.
    """
    found = {n: new_array((n_cells, berts[0].config.hidden_size)) for n in layers}
    for array in found.values():
        array[:] = np.nan
    run(blocks, berts, layers, tokens_per_batch, [[CellEmbeddings(found, vocabulary, pooling)] for _ in berts], advance)
    return found


def embed_groups(
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
    """Mean of the cell embeddings of each group, without keeping those of the cells.

    Parameters
    ----------
    group_of_cell, n_groups
        As in :class:`GroupSums`.
    blocks, berts, vocabulary, layers, pooling, tokens_per_batch, advance
        As in :func:`embed_cells`.

    Returns
    -------
    (n_groups, d) float32 by layer, NaN for groups without a cell; and the cells of each group, (n_groups,) int64.
    """
    width = berts[0].config.hidden_size
    workers = [GroupSums(b.device, width, layers, group_of_cell, n_groups, vocabulary, pooling) for b in berts]
    run(blocks, berts, layers, tokens_per_batch, [[worker] for worker in workers], advance)
    n_cells = np.sum([worker.n_cells for worker in workers], axis=0)
    divisor = np.where(n_cells > 0, n_cells, np.nan)[:, None]
    return {n: (sum(w.sums[n] for w in workers) / divisor).astype(np.float32) for n in layers}, n_cells


class CellEmbeddings(ToHost):
    """Consumer that pools each cell and puts its row into an array on the host.

    Parameters
    ----------
    found
        (n_cells, d) float32 by layer, filled in place.
    vocabulary, pooling
        As in :func:`embed_cells`.
    """

    def __init__(self, found: dict[int, np.ndarray], vocabulary: Vocabulary, pooling: Pooling) -> None:
        super().__init__()
        self.found, self.vocabulary, self.pooling = found, vocabulary, pooling

    def select(self, batch: Batch) -> tuple[np.ndarray, dict[int, torch.Tensor]]:
        """Pool the cells."""
        return batch.cells, {n: self.pooling(batch.states[n], batch.packed, self.vocabulary) for n in self.found}

    def store(self, place: np.ndarray, rows: dict[int, np.ndarray]) -> None:
        """Put the rows of the cells in their places."""
        for layer, values in rows.items():
            self.found[layer][place] = values


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
