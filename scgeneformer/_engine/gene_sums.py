"""Sums of the contextual embeddings of every gene over the cells of each group, reduced on the device.

The contextual embedding of a gene in a cell is the hidden state at the gene's position. Per batch, states are added in
float64 to an accumulator of (n_groups, n_genes, d), so that the mean over any number of cells is good to 1e-6 of its
norm; nothing of the size n_cells x length x d ever exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine.packing import to_device
from scgeneformer._engine.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import BertModel

    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.tokens import Tokens


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
        Where the sums of a token go, (n_tokens,) int64; -1 for tokens (special ones included) nobody asked for.
    n_slots
        Number of genes.
    squares
        Also sum the squares, for the variance.
    """
    workers = [
        GeneSummer(
            bert.device, bert.config.hidden_size, layers, group_of_cell, n_groups, slot_of_token, n_slots, squares
        )
        for bert in berts
    ]
    run(blocks, berts, layers, tokens_per_batch, [[worker] for worker in workers], advance)
    first, *others = [worker.result for worker in workers]
    for other in others:
        for layer in layers:
            first.sums[layer] += other.sums[layer]
            if squares:
                first.squares[layer] += other.squares[layer]
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
    ) -> None:
        def zeros() -> dict[int, torch.Tensor]:
            return {n: torch.zeros(n_groups * n_slots, width, dtype=torch.float64, device=device) for n in layers}

        self.shape = (n_groups, n_slots)
        self.group_of_cell = group_of_cell
        self.slot_of_token = slot_of_token
        self.sums, self.squares = zeros(), zeros() if squares else {}
        self.n_cells = torch.zeros(n_groups * n_slots, dtype=torch.int64, device=device)

    def add(self, batch: Batch) -> None:
        """Add the states of the batch."""
        group = np.repeat(self.group_of_cell[batch.cells], batch.tokens.lengths)  # of each token
        slot = self.slot_of_token[batch.tokens.ids]
        kept_here = np.flatnonzero((slot >= 0) & (group >= 0))  # found on the host: the device need not be waited for
        place = to_device(group[kept_here] * self.shape[1] + slot[kept_here], self.n_cells.device)
        kept = to_device(kept_here, self.n_cells.device)
        self.n_cells.index_add_(0, place, torch.ones_like(place))
        for layer, sums in self.sums.items():
            states = batch.states[layer][kept].double()  # (kept tokens, d)
            sums.index_add_(0, place, states)
            if self.squares:
                self.squares[layer].index_add_(0, place, states.square_())

    def finish(self) -> None:
        """Copy the sums to the host."""

        def host(tensors: dict[int, torch.Tensor]) -> dict[int, np.ndarray]:
            return {n: tensor.reshape(*self.shape, -1).cpu().numpy() for n, tensor in tensors.items()}

        self.result = GeneSums(host(self.sums), host(self.squares), self.n_cells.reshape(self.shape).cpu().numpy())
