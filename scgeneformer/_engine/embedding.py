"""One vector per cell: pooled hidden states, copied to the host while the device goes on working."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine.run import run

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
    found = {n: np.full((n_cells, berts[0].config.hidden_size), np.nan, dtype=np.float32) for n in layers}
    run(blocks, berts, layers, tokens_per_batch, [[CellEmbeddings(found, vocabulary, pooling)] for _ in berts], advance)
    return found


class CellEmbeddings:
    """Consumer that pools each cell and puts its row into an array on the host.

    Parameters
    ----------
    found
        (n_cells, d) float32 by layer, filled in place.
    vocabulary, pooling
        As in :func:`embed_cells`.
    """

    def __init__(self, found: dict[int, np.ndarray], vocabulary: Vocabulary, pooling: Pooling) -> None:
        self.found, self.vocabulary, self.pooling = found, vocabulary, pooling
        self.waiting: deque[_OnItsWay] = deque()

    def add(self, batch: Batch) -> None:
        """Pool the cells and start the copy; wait for that of the batch before."""
        pooled = {n: self.pooling(batch.states[n], batch.packed, self.vocabulary) for n in self.found}
        self.waiting.append(_OnItsWay(batch.cells, pooled))
        if len(self.waiting) > 1:  # one behind: the device has the next batch already while this one is waited for
            self.waiting.popleft().store(self.found)

    def finish(self) -> None:
        """Wait for the last copy."""
        while self.waiting:
            self.waiting.popleft().store(self.found)


class _OnItsWay:
    """Embeddings of a batch that are being copied to the host, on CUDA while the device goes on working."""

    def __init__(self, cells: np.ndarray, pooled: dict[int, torch.Tensor]) -> None:
        self.cells, self.hosts, self.event = cells, pooled, None
        if next(iter(pooled.values())).is_cuda:
            self.hosts = {n: torch.empty_like(t, device="cpu", pin_memory=True) for n, t in pooled.items()}
            for n, tensor in pooled.items():
                self.hosts[n].copy_(tensor, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def store(self, found: dict[int, np.ndarray]) -> None:
        """Wait for the copy and put the rows in their places."""
        if self.event is not None:
            self.event.synchronize()
        for layer, host in self.hosts.items():
            found[layer][self.cells] = host.numpy()
