"""One forward pass over all cells, on one device or on several, for as many consumers as want its hidden states."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch

from scgeneformer._engine.forward import Batch, forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import BertModel

    from scgeneformer._engine.tokens import Tokens


T = TypeVar("T")


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

    def work(bert: BertModel, own: list[Consumer], source: Iterable[tuple[int, Tokens]], stop: threading.Event) -> None:
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

    share(blocks, [partial(work, bert, own) for bert, own in zip(berts, consumers, strict=True)])


def share(items: Iterable[T], workers: list[Callable[[Iterable[T], threading.Event], object]]) -> None:
    """Let several workers, each in a thread of its own, draw from one iterator; a single one works in this thread.

    Workers are handed the items and an event: once it is set, after an error or an interrupt, they should return.
    """
    stop = threading.Event()
    if len(workers) == 1:
        workers[0](items, stop)
        return
    shared = _Shared(items)
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            running = [pool.submit(worker, shared, stop) for worker in workers]
            for one in wait(running, return_when=FIRST_EXCEPTION).done:
                one.result()
        finally:
            stop.set()


class _Shared(Generic[T]):
    """An iterator that several threads may draw from."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items, self._lock = iter(items), threading.Lock()

    def __iter__(self) -> _Shared[T]:
        return self

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)
