"""Compiled functions that run on all processors, from any thread, and in processes that were forked.

Threads do not live on in a forked process (`multiprocessing` forks by default on Linux before Python 3.14): numba's
OpenMP layer ends the process there, and torch waits for ever for threads that are gone. Forked processes therefore
compute in one thread each; the results are the same.
"""

from __future__ import annotations

import os
import sys
import threading
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numba as nb

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


class _Process:
    """What calls in this process have in common."""

    def __init__(self) -> None:
        self.one_at_a_time = threading.Lock()  # some of numba's threading layers abort if two threads enter at once
        self.forked = False

    def after_fork(self) -> None:
        """Begin anew in a child: nobody would release a lock that a thread of the parent held."""
        self.one_at_a_time, self.forked = threading.Lock(), True
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(1)


_process = _Process()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_process.after_fork)


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose ``prange`` runs on all processors, or in one thread where the process was forked."""
    alone = FunctionType(function.__code__, function.__globals__)
    alone.__qualname__ = f"{function.__qualname__}_in_one_thread"  # its name in numba's cache
    together, alone = nb.njit(parallel=True, **OPTIONS)(function), nb.njit(**OPTIONS)(alone)

    def call(*args: Any) -> Any:
        with _process.one_at_a_time:
            return (alone if _process.forked else together)(*args)

    return call
