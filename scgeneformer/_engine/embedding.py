"""Cell embeddings of many cells, on one device or on several."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgeneformer._engine.forward import forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import BertModel

    from scgeneformer._engine.pooling import Pooling
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary

    Block = tuple[int, Tokens]


def embed_cells(
    blocks: Iterable[Block],
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
    blocks
        (row of the first cell, tokens) of consecutive cells.
    n_cells
        Number of cells in all blocks.
    berts
        The encoder, once for each device; every device takes the next block as soon as it is free.
    vocabulary
        Tells the pooling where the special tokens are.
    layers
        Hidden layers, counted from 0.
    pooling
        Function of `pooling.POOLINGS`.
    tokens_per_batch
        As in :func:`forward.forward`.
    advance
        Called with the number of cells that have been stored since the last call.

    Returns
    -------
    (n_cells, d) float32 by layer; NaN rows for cells without tokens.
    """
    found = {n: np.full((n_cells, berts[0].config.hidden_size), np.nan, dtype=np.float32) for n in layers}
    stop = threading.Event()

    def work(bert: BertModel, source: Iterable[Block]) -> None:
        waiting: deque[_OnItsWay] = deque()
        for batch in forward(source, bert, layers, tokens_per_batch):
            with torch.inference_mode():
                pooled = {layer: pooling(states, batch.packed, vocabulary) for layer, states in batch.states.items()}
            waiting.append(_OnItsWay(batch.cells, pooled))
            if len(waiting) > 1:  # one behind: the device has the next batch already while this one is waited for
                advance(waiting.popleft().store(found))
            if stop.is_set():
                return
        for last in waiting:
            advance(last.store(found))

    if len(berts) == 1:
        work(berts[0], blocks)
        return found
    shared = _Shared(blocks)
    with ThreadPoolExecutor(len(berts)) as pool:
        try:
            workers = [pool.submit(work, bert, shared) for bert in berts]
            for worker in wait(workers, return_when=FIRST_EXCEPTION).done:
                worker.result()
        finally:
            stop.set()  # after an error or an interrupt the other workers end, too
    return found


class _OnItsWay:
    """Embeddings of a batch that are being copied to the host, on CUDA while the device goes on working."""

    def __init__(self, cells: np.ndarray, pooled: dict[int, torch.Tensor]) -> None:
        self.cells, self.event = cells, None
        if next(iter(pooled.values())).is_cuda:
            self.hosts = {n: torch.empty_like(t, device="cpu", pin_memory=True) for n, t in pooled.items()}
            for n, tensor in pooled.items():
                self.hosts[n].copy_(tensor, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()
        else:
            self.hosts = pooled

    def store(self, found: dict[int, np.ndarray]) -> int:
        """Wait for the copy, put the rows in their places, return their number."""
        if self.event is not None:
            self.event.synchronize()
        for layer, host in self.hosts.items():
            found[layer][self.cells] = host.numpy()
        return len(self.cells)


class _Shared:
    """An iterator that several threads may draw from."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self._lock = iter(items), threading.Lock()

    def __iter__(self) -> _Shared:
        return self

    def __next__(self) -> Any:
        with self._lock:
            return next(self._items)
