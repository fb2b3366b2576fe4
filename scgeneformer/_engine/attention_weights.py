"""Attention between genes: the weights of one block, averaged over heads and summed over the cells of each group.

The weight from query gene i to key gene j in a cell is softmax_j(q_i · k_j / sqrt(d_head)), averaged over the heads
asked for (Vaswani et al. 2017). Only the blocks in front are run, and of the block itself only the two projections;
the softmax runs over all tokens of the cell, a few queries at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch
from scanpy import logging as logg

from scgeneformer._engine.packing import to_device
from scgeneformer._engine.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import BertModel

    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.tokens import Tokens

QUERIES_AT_ONCE = 256
DENSE_BYTES = 2 * 2**30  # largest dense accumulator
BYTES_PER_PAIR = 8 + 4  # of a dense accumulator: sum and number of cells
BYTES_PER_SPARSE_PAIR = 16 + 4  # the same as one complex number, and the column


class PairSums(ABC):
    """Sums over cells of a value for each pair of genes, per group."""

    @abstractmethod
    def add(self, group: int, slots: np.ndarray, weights: torch.Tensor) -> None:
        """Add the weights (n, n) between the genes `slots` of one cell, (n,) ascending, to a group."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Add the sums of another device."""

    @abstractmethod
    def of_group(self, group: int) -> sp.csr_matrix:
        """Sums of one group, (n_slots, n_slots) complex: real = sum of the weights, imaginary = number of cells."""


class DensePairs(PairSums):
    """All pairs of all groups on the device: 12 bytes each."""

    def __init__(self, n_groups: int, n_slots: int, device: torch.device) -> None:
        self.sums = torch.zeros(n_groups, n_slots, n_slots, dtype=torch.float64, device=device)
        self.n_cells = torch.zeros(n_groups, n_slots, n_slots, dtype=torch.int32, device=device)

    def add(self, group: int, slots: np.ndarray, weights: torch.Tensor) -> None:
        """Add one cell."""
        columns = to_device(slots, self.sums.device)
        rows = columns[:, None]
        self.sums[group][rows, columns] += weights  # a gene is in a cell but once: no place is named twice
        self.n_cells[group][rows, columns] += 1

    def merge(self, other: Any) -> None:
        """Add the sums of another device."""
        self.sums += other.sums.to(self.sums.device)
        self.n_cells += other.n_cells.to(self.sums.device)

    def of_group(self, group: int) -> sp.csr_matrix:
        """Pairs that occur in any cell."""
        n_cells = sp.csr_matrix(self.n_cells[group].cpu().numpy())
        rows = np.repeat(np.arange(n_cells.shape[0]), np.diff(n_cells.indptr))
        data = self.sums[group].cpu().numpy()[rows, n_cells.indices] + 1j * n_cells.data
        return sp.csr_matrix((data, n_cells.indices, n_cells.indptr), shape=n_cells.shape)


class SparsePairs(PairSums):
    """Only the pairs that occur, on the host: 20 bytes each.

    Every group is a stack of matrices whose sizes fall by more than half, so that a pair is moved only log(n) times.
    Sum and number of cells are one complex number: one merge for both, and no sum of weights that is zero gets lost.
    """

    def __init__(self, n_groups: int, n_slots: int) -> None:
        self.stacks: list[list[sp.csr_matrix]] = [[] for _ in range(n_groups)]
        self.shape = (n_slots, n_slots)

    def add(self, group: int, slots: np.ndarray, weights: torch.Tensor) -> None:
        """Add one cell."""
        n = len(slots)
        indptr = np.zeros(self.shape[0] + 1, dtype=np.int64)
        indptr[slots + 1] = n
        data = weights.cpu().numpy().astype(np.complex128).ravel() + 1j
        self._push(group, sp.csr_matrix((data, np.tile(slots, n), np.cumsum(indptr)), shape=self.shape))

    def merge(self, other: Any) -> None:
        """Add the sums of another device."""
        for group, stack in enumerate(other.stacks):
            for matrix in stack:
                self._push(group, matrix)

    def _push(self, group: int, matrix: sp.csr_matrix) -> None:
        stack = self.stacks[group]
        while stack and stack[-1].nnz <= 2 * matrix.nnz:
            matrix = stack.pop() + matrix
        stack.append(matrix)

    def of_group(self, group: int) -> sp.csr_matrix:
        """Pairs that occur in any cell."""
        return sum(reversed(self.stacks[group]), start=sp.csr_matrix(self.shape, dtype=np.complex128))


def attention_sums(
    blocks: Iterable[tuple[int, Tokens]],
    berts: list[BertModel],
    block: int,
    heads: list[int],
    tokens_per_batch: int,
    group_of_cell: np.ndarray,
    n_groups: int,
    slot_of_token: np.ndarray,
    n_slots: int,
    advance: Callable[[int], object] = lambda n: None,
) -> PairSums:
    """Sum the attention weights between genes over the cells of each group, in one pass.

    Parameters
    ----------
    blocks, berts, tokens_per_batch, advance
        As in :func:`run.run`.
    block
        Block whose attention is asked for, counted from 1.
    heads
        Heads to average over.
    group_of_cell
        Group of each cell, (n_cells,) int64; cells of group -1 count nowhere.
    n_groups
        Number of groups.
    slot_of_token
        Row and column of a token, as :meth:`Vocabulary.slots` gives it: negative for tokens (special ones included)
        nobody asked for.
    n_slots
        Number of genes.
    """
    accumulators = [_accumulator(n_groups, n_slots, bert.device) for bert in berts]
    workers = [
        AttentionSummer(bert, block, heads, group_of_cell, slot_of_token, sums)
        for bert, sums in zip(berts, accumulators, strict=True)
    ]
    run(blocks, berts, [block - 1], tokens_per_batch, [[worker] for worker in workers], advance)
    first, *others = accumulators
    for other in others:
        first.merge(other)
    return first


def _accumulator(n_groups: int, n_slots: int, device: torch.device) -> PairSums:
    """All pairs if they fit into the budget, else only those that occur; says what they take."""
    n_bytes, pairs = n_groups * n_slots**2 * BYTES_PER_PAIR, f"    {n_groups} × {n_slots:,}² pairs of genes"
    if n_bytes <= DENSE_BYTES:
        logg.debug(f"{pairs} take {n_bytes / 1e6:,.0f} MB on {device}")
        return DensePairs(n_groups, n_slots, device)
    logg.info(
        f"{pairs} would take {n_bytes / 1e9:,.0f} GB: only those that occur are kept, {BYTES_PER_SPARSE_PAIR} bytes "
        "each, which is slower. Fewer genes (genes=...) need less."
    )
    return SparsePairs(n_groups, n_slots)


class AttentionSummer:
    """Consumer that adds the attention weights of every cell to those of its group."""

    def __init__(
        self,
        bert: BertModel,
        block: int,
        heads: list[int],
        group_of_cell: np.ndarray,
        slot_of_token: np.ndarray,
        sums: PairSums,
    ) -> None:
        layer: Any = bert.encoder.layer[block - 1]
        self.attention, self.layer = layer.attention.self, block - 1
        self.heads = heads
        self.group_of_cell, self.slot_of_token, self.sums = group_of_cell, slot_of_token, sums

    def add(self, batch: Batch) -> None:
        """Add the cells of the batch."""
        states = batch.states[self.layer]  # (total, d)
        shape = (len(states), self.attention.num_attention_heads, self.attention.attention_head_size)
        query, key = (
            linear(states).reshape(shape)[:, self.heads].transpose(0, 1).float()  # (n_heads, total, d_head)
            for linear in (self.attention.query, self.attention.key)
        )
        slots, offsets = batch.tokens.slots(self.slot_of_token), batch.tokens.offsets
        for i, group in enumerate(self.group_of_cell[batch.cells].tolist()):
            cell = slice(offsets[i], offsets[i + 1])
            kept = np.flatnonzero(slots[cell] >= 0)
            if group < 0 or not len(kept):
                continue
            kept = kept[np.argsort(slots[cell][kept])]
            weights = mean_attention(query[:, cell], key[:, cell], to_device(kept, states.device))
            self.sums.add(group, slots[cell][kept], weights)

    def finish(self) -> None:
        """Nothing to do: the sums are merged when all devices are through."""


def mean_attention(query: torch.Tensor, key: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Attention weights within one cell, averaged over heads, from and to the positions `kept`.

    Parameters
    ----------
    query, key
        Projections of all tokens of the cell, (n_heads, n, d_head) float32.
    kept
        Positions, (m,) int64.

    Returns
    -------
    (m, m) float32.
    """
    found = query.new_empty(len(kept), len(kept))
    query, key = query * query.shape[-1] ** -0.5, key.transpose(1, 2)
    for start in range(0, len(kept), QUERIES_AT_ONCE):
        some = kept[start : start + QUERIES_AT_ONCE]
        weights = torch.matmul(query[:, some], key).softmax(dim=-1).mean(dim=0)  # (some, n)
        found[start : start + len(some)] = weights[:, kept]
    return found


def mean_of_pairs(
    total: sp.csr_matrix, min_cells: int = 1, top_k: int | None = None
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Mean weight of every pair of genes, and the number of cells it is the mean of.

    Parameters
    ----------
    total
        As :meth:`PairSums.of_group` gives it.
    min_cells
        Pairs in fewer cells are left out.
    top_k
        Keep that many largest means in each row; None keeps all.

    Returns
    -------
    Two matrices with the same entries, CSR float32 and CSR int32.
    """
    mean = (total.data.real / total.data.imag).astype(np.float32)
    kept = total.data.imag >= min_cells
    if top_k is not None:
        for start, stop in zip(total.indptr[:-1], total.indptr[1:], strict=True):
            there = start + np.flatnonzero(kept[start:stop])
            if len(there) > top_k:
                kept[there[np.argpartition(-mean[there], top_k - 1)[top_k:]]] = False
    indptr = np.concatenate([[0], np.cumsum(kept)])[total.indptr]
    indices = total.indices[kept]
    n_cells = total.data.imag[kept].astype(np.int32)
    return (
        sp.csr_matrix((mean[kept], indices, indptr), shape=total.shape),
        sp.csr_matrix((n_cells, indices.copy(), indptr.copy()), shape=total.shape),
    )
