"""The batch loop: token blocks in, hidden states of the requested layers out, one forward pass for all consumers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scanpy import logging as logg

from scgeneformer._engine.encoder import hidden_states
from scgeneformer._engine.packing import Packed, batches, pack
from scgeneformer._errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import BertModel

    from scgeneformer._engine.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Batch:
    """Hidden states of a few cells.

    Parameters
    ----------
    cells
        Row of each cell in the data set, (n_cells,) int64.
    tokens
        Their tokens, on the host.
    packed
        The same on the device.
    states
        Hidden states, (total, d) by layer.
    """

    cells: np.ndarray
    tokens: Tokens
    packed: Packed
    states: dict[int, torch.Tensor]


def forward(
    blocks: Iterable[tuple[int, Tokens]], bert: BertModel, layers: Iterable[int], tokens_per_batch: int
) -> Iterator[Batch]:
    """Run the encoder over blocks of cells; cells without tokens are passed over.

    Parameters
    ----------
    blocks
        (row of the first cell, tokens) of consecutive cells.
    bert
        Encoder with packed attention; its device and dtype are used.
    layers
        Hidden layers, counted from 0.
    tokens_per_batch
        Tokens in one forward pass, unless a single cell has more. If the device runs out of memory, this is halved
        from there on, and only the cells of that batch are run again.

    Raises
    ------
    OutOfMemoryError
        If a single cell does not fit.
    """
    layers = sorted(set(layers))
    for first, tokens in blocks:
        filled = np.flatnonzero(tokens.lengths)
        tokens = tokens if len(filled) == len(tokens) else tokens.take(filled)
        waiting = deque(batches(tokens.lengths, tokens_per_batch))
        while waiting:
            start, stop = waiting.popleft()
            some = tokens.slice(start, stop)
            packed = pack(some, bert.device)
            states = _states_if_they_fit(bert, packed, layers)
            if states is not None:
                yield Batch(first + filled[start:stop], some, packed, states)
                continue
            tokens_per_batch = _halved(packed, bert.device)
            again = batches(tokens.lengths[start:], tokens_per_batch)
            waiting = deque((start + a, start + b) for a, b in again)


def _states_if_they_fit(bert: BertModel, packed: Packed, layers: list[int]) -> dict[int, torch.Tensor] | None:
    """Hidden states, or None if the device has too little memory for them."""
    try:
        with torch.inference_mode():
            return hidden_states(bert, packed, layers)
    except RuntimeError as error:  # of which torch.OutOfMemoryError is one; that of the CPU has no class of its own
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
    # outside the handler: the traceback held on to the tensors of the failed pass
    if bert.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _halved(packed: Packed, device: torch.device) -> int:
    """Half the tokens of a batch that did not fit."""
    if len(packed.lengths) == 1:
        raise OutOfMemoryError(
            f"A single cell of {packed.n_tokens:,} tokens does not fit into the free memory of {device}. Free memory "
            "(gf.models.clear_cache(), other programs), or take dtype='bfloat16', a smaller model or device='cpu'."
        )
    logg.warning(f"{device} ran out of memory at {packed.n_tokens:,} tokens; going on with half as many per batch")
    return max(1, packed.n_tokens // 2)
