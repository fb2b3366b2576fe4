"""Lay the sequences of several cells end to end, so that no position is padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine.tokens import Tokens, offsets_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, eq=False)
class Packed:
    """One batch on the device.

    Parameters
    ----------
    ids
        Tokens, (1, total) int64.
    positions
        Position of each token in its cell, (1, total) int64.
    offsets
        Where each cell starts, and the end, on the device, (n_cells + 1,) int32.
    lengths
        Tokens of each cell, on the host, none of them zero.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    offsets: torch.Tensor
    lengths: list[int]

    @property
    def n_tokens(self) -> int:
        """Tokens in the batch."""
        return self.ids.shape[1]

    @cached_property
    def padding(self) -> tuple[torch.Tensor, torch.Tensor]:
        """How the cells lie side by side, padded to the longest.

        Returns
        -------
        The row of each token among those of all cells, (total,) int64, and which places of a cell are no padding,
        (n_cells, 1, 1, longest) bool; both on the device.
        """
        filled = np.arange(max(self.lengths)) < np.array(self.lengths)[:, None]
        device = self.ids.device
        return to_device(np.flatnonzero(filled), device), to_device(filled[:, None, None], device)


def pack(tokens: Tokens, device: torch.device | str = "cpu") -> Packed:
    """Pack the sequences of `tokens` (none of them empty) into one batch on `device`.

    Parameters
    ----------
    tokens
        The sequences.
    device
        Where the batch goes; copies to CUDA are asynchronous, from pinned memory.
    """
    lengths, positions = tokens.lengths, tokens.positions
    if positions is None:
        positions = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], lengths)
    return Packed(
        ids=to_device(tokens.ids.astype(np.int64), device)[None],
        positions=to_device(positions.astype(np.int64), device)[None],
        offsets=to_device(tokens.offsets.astype(np.int32), device),
        lengths=lengths.tolist(),
    )


def to_device(array: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """Tensor on `device`; to CUDA the copy is asynchronous, from pinned memory."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def batches(lengths: np.ndarray, budget: int) -> Iterator[tuple[int, int]]:
    """Cut consecutive cells into ranges of at most `budget` tokens; a longer cell gets a range of its own."""
    ends = offsets_of(lengths)
    start = 0
    while start < len(lengths):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + budget, side="right")) - 1)
        yield start, stop
        start = stop
