"""Compiled kernels over cells, in as many threads as there are processors.

A kernel takes `first` and `last`, works on the cells between them, lets other threads run (``nogil``), and writes into
arrays that it is given. So it is compiled once, sooner than a ``prange``, for any number of threads, and works in
processes that were forked (`multiprocessing` forks by default on Linux before Python 3.14). The threads of OpenMP are
gone there: numba's end such a process, and torch waits for its own for ever, so torch computes in one thread there.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numba as nb

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
CELLS_PER_TASK = 64  # at least; cells that a kernel gives one scratch buffer
TASKS_PER_THREAD = 4  # some take longer than others


def over_cells(kernel: Callable[..., None], n_cells: int, *args: Any) -> None:
    """Call ``kernel(first, last, *args)`` for pieces of the cells 0 ... `n_cells`.

    The number of threads is numba's: the environment variable NUMBA_NUM_THREADS, by default that of the processors.
    """
    n_threads = nb.config.NUMBA_NUM_THREADS
    n_tasks = min(TASKS_PER_THREAD * n_threads, -(-n_cells // CELLS_PER_TASK)) if n_threads > 1 else 1
    if n_tasks <= 1:
        return kernel(0, n_cells, *args)
    edges = [n_cells * task // n_tasks for task in range(n_tasks + 1)]
    with ThreadPoolExecutor(n_threads) as pool:
        for done in [pool.submit(kernel, *ends, *args) for ends in pairwise(edges)]:
            done.result()


def _after_fork() -> None:
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)
