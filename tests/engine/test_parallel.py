"""Kernels over cells: every cell once, in any number of threads."""

import threading

import numba as nb
import numpy as np
import pytest

from scgeneformer._engine.parallel import CELLS_PER_TASK, over_cells


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_cells", [0, 1, CELLS_PER_TASK, CELLS_PER_TASK + 1, 1000])
def test_every_cell_is_worked_on_once(monkeypatch, n_threads, n_cells):
    monkeypatch.setattr(nb.config, "NUMBA_NUM_THREADS", n_threads)
    times, threads = np.zeros(n_cells, int), set()

    def kernel(first, last, step, out):
        out[first:last] += step
        threads.add(threading.current_thread())

    over_cells(kernel, n_cells, 2, times)
    np.testing.assert_array_equal(times, 2)
    alone = n_threads == 1 or n_cells <= CELLS_PER_TASK
    assert (threads == {threading.current_thread()}) == alone
    assert len(threads) <= n_threads


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(nb.config, "NUMBA_NUM_THREADS", 2)

    def kernel(first, last):
        if first <= 700 < last:
            raise ValueError("cell 700")

    with pytest.raises(ValueError, match="cell 700"):
        over_cells(kernel, 1000)
