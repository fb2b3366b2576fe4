"""Threads, interrupts and other processes."""

from __future__ import annotations

import linecache
import multiprocessing
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Barrier

import numpy as np
import pytest
import torch
from anndata.tests.helpers import assert_equal
from toys import embed_toys, make_adata, make_bert, make_model, make_vocabulary

import scgeneformer as gf
from scgeneformer._engine.class_head import ClassHead
from scgeneformer.models import _cache, _weights
from scgeneformer.models._classifier import CELLS, Task, describe
from scgeneformer.models._save_trained import save_trained

CALLS = {
    "cells": lambda adata, model: gf.tl.embed_cells(adata, model, groupby="cell_type"),
    "genes": lambda adata, model: gf.tl.embed_genes(adata, model, groupby="cell_type"),
    "perturbation": lambda adata, model: gf.tl.perturb(adata, ["G0", "G1"], model=model),
}

# --- threads --------------------------------------------------------------------------------------------------------


def test_threads_give_the_numbers_of_one_call_after_the_other(toy):
    data = [make_adata(8 + i, seed=i) for i in range(6)]
    calls = list(CALLS.values()) * 2
    expected = [adata.copy() for adata in data]
    for call, adata in zip(calls, expected, strict=True):
        call(adata, toy)
    with ThreadPoolExecutor(len(data)) as pool:
        list(pool.map(lambda call, adata: call(adata, toy), calls, data))
    for adata, other in zip(data, expected, strict=True):
        assert_equal(adata, other)


@pytest.fixture
def folder(tmp_path):
    """Directory of a model that is not in memory."""
    vocabulary = make_vocabulary()
    entries = describe(CELLS, "mean", "linear", [Task("cell_type", ["a", "b"])])
    head = ClassHead(16, 2, "linear").initialise(0.5, 1).tensors()
    save_trained(tmp_path / "model", make_bert(vocabulary), head, vocabulary, config=entries, metrics={}, card="")
    gf.models.clear_cache()
    _weights.READS.clear()
    yield tmp_path / "model"
    gf.models.clear_cache()


def test_threads_that_ask_for_a_model_load_it_once(folder):
    data, barrier = [make_adata(seed=seed) for seed in (0, 1)], Barrier(2)

    def embed(adata):
        barrier.wait()
        gf.tl.embed_cells(adata, folder, device="cpu")
        return adata.obsm["X_geneformer"]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(embed, data))
    assert sum(_weights.READS.values()) == 1
    for vectors, adata in zip(found, data, strict=True):
        gf.tl.embed_cells(adata, folder, device="cpu")
        np.testing.assert_array_equal(adata.obsm["X_geneformer"], vectors)


# --- interrupts -----------------------------------------------------------------------------------------------------


def lines_run(call: Callable[[], object], stop_at: int = 0, within: tuple[str, ...] = ("/scgeneformer/",)) -> int:
    """Lines of Python that a call runs in some files; Ctrl-C is pressed at one of them.

    Not where `with` ends: Python itself looks for signals nowhere between the block and what releases a lock.
    """
    n, pressed = 0, False

    def line(frame, event, arg):
        nonlocal n, pressed
        if event == "line":
            n += 1
            if 0 < stop_at <= n and not pressed and not source(frame).startswith("with "):
                pressed = True
                signal.raise_signal(signal.SIGINT)
        return line

    def source(frame):
        return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()

    def trace(frame, event, arg):
        return line if any(part in frame.f_code.co_filename for part in within) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return n


def data(view: bool):
    """Cells with a result that the calls replace."""
    adata = make_adata(14)
    gf.tl.tokenize(adata, make_model())
    adata.obs["geneformer_n_tokens"] = np.int64(7)
    return adata[:12] if view else adata


@pytest.mark.parametrize("view", [False, True], ids=["whole", "view"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_interrupt_leaves_all_or_nothing_and_the_next_call_works(toy, call, view):
    before, complete, settings = data(view).copy(), data(view), asdict(gf.settings)
    call(complete, toy)
    adata = data(view)
    n = lines_run(lambda: call(adata, toy))
    for stop_at in np.linspace(1, n - 1, 6).astype(int).tolist():
        adata = data(view)
        with pytest.raises(KeyboardInterrupt):
            lines_run(lambda adata=adata: call(adata, toy), stop_at)
        if len(adata.uns) > 1 and adata.uns.keys() != before.uns.keys():
            assert_equal(adata, complete)
        else:
            assert_equal(adata.copy(), before)
        assert asdict(gf.settings) == settings
    call(adata, toy)
    assert_equal(adata, complete)


@pytest.mark.parametrize("view", [False, True], ids=["whole", "view"])
def test_an_interrupt_while_results_are_written_comes_after_the_last_of_them(view):
    from scgeneformer._adata.writer import Results, write

    def results():
        return Results(obs={"a": np.arange(12), "geneformer_n_tokens": np.zeros(12)}, uns={"b": {"c": 1}})

    def make():
        return make_adata(14)[:12] if view else make_adata(12)

    complete, inside = make(), ("/anndata/",)  # which is where something is assigned
    write(complete, results())
    adata = make()
    n = lines_run(lambda: write(adata, results()), within=inside)
    handler = signal.getsignal(signal.SIGINT)
    for stop_at in np.linspace(1, n, 20).astype(int).tolist():
        adata = make()
        with pytest.raises(KeyboardInterrupt):
            lines_run(lambda adata=adata: write(adata, results()), stop_at, inside)
        assert_equal(adata, complete)
        assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_while_a_model_is_loaded_leaves_the_cache_usable(folder):
    gf.models.load(folder, device="cpu")
    gf.models.clear_cache()
    n = lines_run(lambda: gf.models.load(folder, device="cpu"))
    for stop_at in np.linspace(1, n - 1, 8).astype(int).tolist():
        gf.models.clear_cache()
        with pytest.raises(KeyboardInterrupt):
            lines_run(lambda: gf.models.load(folder, device="cpu"), stop_at)
        with ThreadPoolExecutor(1) as pool:  # no lock is held
            assert pool.submit(gf.models.load, folder, device="cpu").result(60).width == 16


# --- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 and newer, of forks beside threads
@pytest.mark.parametrize("method", sorted({"fork", "spawn"} & {*multiprocessing.get_all_start_methods()}))
def test_processes_give_the_same_numbers_however_they_start(method):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(3000, 1000).softmax(dim=1)  # threads of torch
    here = embed_toys()
    with _cache._lock, multiprocessing.get_context(method).Pool(1) as pool:  # as if a thread of the parent held it
        there = pool.apply_async(embed_toys).get(100)
    torch.set_num_threads(n_threads)
    np.testing.assert_allclose(there, here, atol=1e-6)
