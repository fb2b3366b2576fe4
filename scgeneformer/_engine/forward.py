"""The batch loop: token blocks in, hidden states of the requested layers out, one forward pass for all consumers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine.encoder import hidden_states
from scgeneformer._engine.packing import Packed, batches, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from transformers import BertModel

    from scgeneformer._engine.pooling import Pooling
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Batch:
    """Hidden states of a few cells: the row of each in the data set, the packed tokens, (total, d) by layer."""

    cells: np.ndarray
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
        Tokens in one forward pass, unless a single cell has more.
    """
    layers = sorted(set(layers))
    for first, tokens in blocks:
        filled = np.flatnonzero(tokens.lengths)
        tokens = tokens if len(filled) == len(tokens) else tokens.take(filled)
        for start, stop in batches(tokens.lengths, tokens_per_batch):
            packed = pack(tokens.slice(start, stop), bert.device)
            with torch.inference_mode():
                states = hidden_states(bert, packed, layers)
            yield Batch(first + filled[start:stop], packed, states)


def embed_cells(
    blocks: Iterable[tuple[int, Tokens]],
    n_cells: int,
    bert: BertModel,
    vocabulary: Vocabulary,
    layers: list[int],
    pooling: Pooling,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda n: None,
) -> dict[int, np.ndarray]:
    """Cell embeddings of one or several layers in one pass.

    Parameters
    ----------
    blocks, bert, layers, tokens_per_batch
        As in :func:`forward`.
    n_cells
        Number of cells in all blocks.
    vocabulary
        Tells the pooling where the special tokens are.
    pooling
        Function of `pooling.POOLINGS`.
    advance
        Called after each batch with the number of cells it held.

    Returns
    -------
    (n_cells, d) float32 by layer; NaN rows for cells without tokens.
    """
    found = {layer: np.full((n_cells, bert.config.hidden_size), np.nan, dtype=np.float32) for layer in layers}
    waiting: list[tuple[np.ndarray, dict[int, torch.Tensor]]] = []  # stays on the device until the next batch is queued
    for batch in forward(blocks, bert, layers, tokens_per_batch):
        with torch.inference_mode():
            pooled = {n: pooling(states, batch.packed, vocabulary) for n, states in batch.states.items()}
        waiting.append((batch.cells, pooled))
        if len(waiting) > 1:
            advance(_store(waiting.pop(0), found))
    for item in waiting:
        advance(_store(item, found))
    return found


def _store(item: tuple[np.ndarray, dict[int, torch.Tensor]], found: dict[int, np.ndarray]) -> int:
    cells, pooled = item
    for layer, tensor in pooled.items():
        found[layer][cells] = tensor.cpu().numpy()
    return len(cells)
