"""Bring rows of every batch to the host while the device goes on working."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np

    from scgeneformer._engine.forward import Batch


class ToHost(ABC):
    """Consumer that takes some rows of every batch to the host; a subclass says which, and where they go."""

    def __init__(self) -> None:
        self._waiting: deque[_OnItsWay] = deque()

    @abstractmethod
    def select(self, batch: Batch) -> tuple[Any, dict[Any, torch.Tensor]]:
        """Where the rows of this batch go, and the rows, (n, ...) by layer or name."""

    @abstractmethod
    def store(self, place: Any, rows: dict[Any, np.ndarray]) -> None:
        """Put the rows in their place."""

    def add(self, batch: Batch) -> None:
        """Select rows and start their copy; wait for that of the batch before."""
        self._waiting.append(_OnItsWay(*self.select(batch)))
        if len(self._waiting) > 1:  # one behind: the device has the next batch already while this one is waited for
            self._store_next()

    def finish(self) -> None:
        """Wait for the last copy."""
        while self._waiting:
            self._store_next()

    def _store_next(self) -> None:
        one = self._waiting.popleft()
        self.store(one.place, one.rows())


class _OnItsWay:
    """Rows that are being copied to the host, on CUDA while the device goes on working."""

    def __init__(self, place: Any, rows: dict[Any, torch.Tensor]) -> None:
        self.place, self.hosts, self.event = place, rows, None
        if next(iter(rows.values())).is_cuda:
            self.hosts = {n: torch.empty_like(t, device="cpu", pin_memory=True) for n, t in rows.items()}
            for n, tensor in rows.items():
                self.hosts[n].copy_(tensor, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def rows(self) -> dict[Any, np.ndarray]:
        """The rows, once they are there."""
        if self.event is not None:
            self.event.synchronize()
        return {n: host.numpy() for n, host in self.hosts.items()}
