"""One forward pass over all cells, on one device or on several, for as many consumers as want its hidden states."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Protocol

import torch

from scgeneformer._engine.forward import Batch, forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import BertModel

    from scgeneformer._engine.tokens import Tokens


class Consumer(Protocol):
    """Takes the hidden states of every batch of one device, and keeps what it needs of them, on that device."""

    def add(self, batch: Batch) -> None:
        """Take a batch; called without gradients, in the order of the cells. Must not wait for the device."""

    def finish(self) -> None:
        """Bring the result to the host; called once, after the last batch."""


def run(
    blocks: Iterable[tuple[int, Tokens]],
    berts: list[BertModel],
    layers: Iterable[int],
    tokens_per_batch: int,
    consumers: list[list[Consumer]],
    advance: Callable[[int], object] = lambda n: None,
) -> None:
    """Run the encoder over all cells and hand every batch to the consumers of its device.

    Parameters
    ----------
    blocks
        (row of the first cell, tokens) of consecutive cells.
    berts
        The encoder, once for each device; every device takes the next block as soon as it is free.
    layers
        Hidden layers that any of the consumers needs, counted from 0.
    tokens_per_batch
        As in :func:`forward.forward`.
    consumers
        The consumers of each device.
    advance
        Called with the number of cells of a batch when the next batch has been queued.
    """
    stop = threading.Event()

    def work(bert: BertModel, own: list[Consumer], source: Iterable[tuple[int, Tokens]]) -> None:
        before = 0
        for batch in forward(source, bert, layers, tokens_per_batch):
            with torch.inference_mode():
                for consumer in own:
                    consumer.add(batch)
            advance(before)
            before = len(batch.cells)
            if stop.is_set():
                return
        for consumer in own:
            consumer.finish()
        advance(before)

    if len(berts) == 1:
        work(berts[0], consumers[0], blocks)
        return
    shared = _Shared(blocks)
    with ThreadPoolExecutor(len(berts)) as pool:
        try:
            workers = [pool.submit(work, bert, own, shared) for bert, own in zip(berts, consumers, strict=True)]
            for worker in wait(workers, return_when=FIRST_EXCEPTION).done:
                worker.result()
        finally:
            stop.set()  # after an error or an interrupt the other workers end, too


class _Shared:
    """An iterator that several threads may draw from."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self._lock = iter(items), threading.Lock()

    def __iter__(self) -> _Shared:
        return self

    def __next__(self) -> Any:
        with self._lock:
            return next(self._items)
