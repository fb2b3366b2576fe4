"""Sums of the contextual embeddings of every gene over the cells of each group, reduced on the device.

The contextual embedding of a gene in a cell is the hidden state at the gene's position. Per batch, states are added in
float64 to an accumulator of (n_groups, n_genes, d), so that the mean over any number of cells is good to 1e-6 of its
norm; nothing of the size n_cells x length x d ever exists. The variance is (Σx² - (Σx)²/n) / n: in float64 the
difference keeps seven digits even where the spread is a ten-thousandth of the mean.

On a CPU a compiled loop adds the rows; `index_add_` takes a hundred times as long there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba as nb
import numpy as np
import torch

from scgeneformer._engine.packing import to_device
from scgeneformer._engine.run import run
from scgeneformer._errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from transformers import BertModel

    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.run import Consumer
    from scgeneformer._engine.tokens import Tokens

ROWS_AT_ONCE = 10_000
"""Rows of sums that are copied to the host together."""


@dataclass(frozen=True, eq=False)
class GeneSums:
    """What is summed over the cells of each group.

    Parameters
    ----------
    sums
        Sum of the embeddings, (n_groups, n_genes, d) float64 by layer.
    squares
        Sum of the element-wise squares, likewise; empty unless asked for.
    n_cells
        Cells that contain the gene, (n_groups, n_genes) int64.
    """

    sums: dict[int, np.ndarray]
    squares: dict[int, np.ndarray]
    n_cells: np.ndarray

    def of(self, layer: int, group: int | None = None) -> np.ndarray:
        """Mean, or variance where squares were summed, in one group or in all together.

        Returns
        -------
        (n_genes, d) float32, NaN for genes that no cell contains.
        """
        groups = np.arange(len(self.n_cells)) if group is None else np.array([group])
        sums = self.sums[layer]
        return _moments(sums, self.squares.get(layer, sums[:0]), self.n_cells, groups)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        sums = {f"sums_L{n}": values for n, values in self.sums.items()}
        return sums | {f"squares_L{n}": values for n, values in self.squares.items()} | {"n_cells": self.n_cells}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> GeneSums:
        """Undo :meth:`to_arrays`."""

        def of(name: str) -> dict[int, np.ndarray]:
            return {int(k.removeprefix(name)): values for k, values in arrays.items() if k.startswith(name)}

        return cls(of("sums_L"), of("squares_L"), arrays["n_cells"])


def gene_sums(
    blocks: Iterable[tuple[int, Tokens]],
    berts: list[BertModel],
    layers: list[int],
    tokens_per_batch: int,
    group_of_cell: np.ndarray,
    n_groups: int,
    slot_of_token: np.ndarray,
    n_slots: int,
    *,
    squares: bool = False,
    start: GeneSums | None = None,
    beside: Sequence[Consumer] | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> GeneSums:
    """Sum the contextual embeddings of genes over the cells of each group, in one pass.

    Parameters
    ----------
    blocks, berts, layers, tokens_per_batch, advance
        As in :func:`run.run`.
    group_of_cell
        Group of each cell, (n_cells,) int64; cells of group -1 are run but not summed.
    n_groups
        Number of groups.
    slot_of_token
        Where the sums of a token go, as :meth:`Vocabulary.slots` gives it: negative for tokens (special ones included)
        nobody asked for.
    n_slots
        Number of genes.
    squares
        Also sum the squares, for the variance.
    start
        Sums over other cells, to which these are added; the arrays are used up.
    beside
        Another consumer for each device, fed by the same pass.
    """
    asked = (layers, group_of_cell, n_groups, slot_of_token, n_slots, squares)
    starts = [start, *[None] * (len(berts) - 1)]
    workers = [
        GeneSummer(bert.device, bert.config.hidden_size, *asked, start=one)
        for bert, one in zip(berts, starts, strict=True)
    ]
    consumers: list[list[Consumer]] = [[worker] for worker in workers]
    for own, more in zip(consumers, beside or [], strict=False):
        own.append(more)
    run(blocks, berts, layers, tokens_per_batch, consumers, advance)
    return add_up([worker.result for worker in workers])


def add_up(parts: list[GeneSums]) -> GeneSums:
    """Add up what several devices have summed; into the first, which is returned."""
    first, *others = parts
    for other in others:
        for own, more in ((first.sums, other.sums), (first.squares, other.squares)):
            for layer in own:
                own[layer] += more[layer]
        first.n_cells[:] += other.n_cells
    return first


class GeneSummer:
    """Consumer that adds the states of every gene to the sums of its cell's group."""

    result: GeneSums

    def __init__(
        self,
        device: torch.device,
        width: int,
        layers: list[int],
        group_of_cell: np.ndarray,
        n_groups: int,
        slot_of_token: np.ndarray,
        n_slots: int,
        squares: bool = False,
        start: GeneSums | None = None,
    ) -> None:
        n_rows = n_groups * n_slots

        def zeros() -> dict[int, torch.Tensor]:
            return {n: _zeros(n_rows, width, device) for n in layers}

        def there(arrays: dict[int, np.ndarray]) -> dict[int, torch.Tensor]:
            return {n: torch.from_numpy(array.reshape(n_rows, -1)).to(device) for n, array in arrays.items()}

        self.shape = (n_groups, n_slots)
        self.group_of_cell = group_of_cell
        self.slot_of_token = slot_of_token
        if start is None:
            self.sums, self.squares = zeros(), zeros() if squares else {}
            self.n_cells = torch.zeros(n_rows, dtype=torch.int64, device=device)
        else:
            self.sums, self.squares = there(start.sums), there(start.squares)
            self.n_cells = torch.from_numpy(start.n_cells.reshape(n_rows)).to(device)

    def add(self, batch: Batch) -> None:
        """Add the states of the batch."""
        kept, group, slot = tokens_of_genes(batch, self.group_of_cell, self.slot_of_token)
        place = group * self.shape[1] + slot
        if self.n_cells.device.type == "cpu":
            self._add_on_host(batch, kept, place)
            return
        at, rows = to_device(place, self.n_cells.device), to_device(kept, self.n_cells.device)
        self.n_cells.index_add_(0, at, torch.ones_like(at))
        for layer, sums in self.sums.items():
            states = batch.states[layer][rows].double()  # (kept tokens, d)
            sums.index_add_(0, at, states)
            if self.squares:
                self.squares[layer].index_add_(0, at, states.square_())

    def _add_on_host(self, batch: Batch, kept: np.ndarray, place: np.ndarray) -> None:
        np.add.at(self.n_cells.numpy(), place, 1)
        for layer, sums in self.sums.items():
            squares = self.squares[layer].numpy() if self.squares else np.empty((0, 0))
            _add_rows(batch.states[layer].float().numpy(), kept, place, sums.numpy(), squares)

    def finish(self) -> None:
        """Copy the sums to the host."""
        n_cells = self.n_cells.cpu().numpy()
        occur = np.flatnonzero(n_cells)

        def host(tensors: dict[int, torch.Tensor]) -> dict[int, np.ndarray]:
            return {n: _to_host(tensor, occur).reshape(*self.shape, -1) for n, tensor in tensors.items()}

        self.result = GeneSums(host(self.sums), host(self.squares), n_cells.reshape(self.shape))


def tokens_of_genes(
    batch: Batch, group_of_cell: np.ndarray, slot_of_token: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of a batch that somebody asked for: their rows in the states, the group and the slot of each, int64.

    Found on the host, so that the device need not be waited for.
    """
    group = np.repeat(group_of_cell[batch.cells], batch.tokens.lengths)
    slot = batch.tokens.slots(slot_of_token)
    kept = np.flatnonzero((slot >= 0) & (group >= 0))
    return kept, group[kept], slot[kept]


def _zeros(n_rows: int, width: int, device: torch.device) -> torch.Tensor:
    try:
        if device.type == "cpu":  # numpy's zeros are not touched until they are needed
            return torch.from_numpy(np.zeros((n_rows, width)))
        return torch.zeros(n_rows, width, dtype=torch.float64, device=device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(
            f"Sums of {n_rows:,} pairs of group and gene take {n_rows * width * 8 / 1e9:.1f} GB, more than is free on "
            f"{device}. Name the genes (genes=[...]), take fewer groups or layers, or device='cpu'."
        ) from error


def _to_host(sums: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """Sums on the host, (n_rows, d), of which all but `rows` are zero."""
    return sums.numpy() if sums.device.type == "cpu" else _copy_rows(sums, rows)


def _copy_rows(sums: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """A copy of `rows` in their places, a few at a time; the others are zeros, whose memory nobody touches."""
    host = np.zeros(sums.shape)
    for some in np.array_split(rows, len(rows) // ROWS_AT_ONCE + 1):
        host[some] = sums[to_device(some, sums.device)].cpu().numpy()
    return host


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _moments(sums, squares, n_cells, groups):  # pragma: no cover  compiled
    """Mean, or variance unless `squares` is empty, over some groups; pairs that do not occur are not read."""
    found = np.full(sums.shape[1:], np.float32(np.nan), dtype=np.float32)
    for gene in range(len(found)):
        n, first, second = 0, np.zeros(found.shape[1]), np.zeros(found.shape[1])
        for group in groups:
            if n_cells[group, gene]:
                n += n_cells[group, gene]
                first += sums[group, gene]
                if len(squares):
                    second += squares[group, gene]
        for j in range(found.shape[1] if n else 0):
            mean = first[j] / n
            found[gene, j] = max(second[j] / n - mean**2, 0) if len(squares) else mean
    return found


@nb.njit(cache=True, nogil=True)
def _add_rows(states, kept, place, sums, squares):  # pragma: no cover  compiled
    """Add row `kept[i]` of `states` to row `place[i]` of `sums`, and its squares to `squares` unless that is empty."""
    for i in range(len(kept)):
        row, to = kept[i], place[i]
        for j in range(states.shape[1]):
            sums[to, j] += states[row, j]
        if len(squares):
            for j in range(states.shape[1]):
                squares[to, j] += np.float64(states[row, j]) ** 2
