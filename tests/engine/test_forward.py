import threading

import numpy as np
import pytest
import torch
from toys import make_bert, make_vocabulary

from scgeneformer._engine import forward as module
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.forward import forward
from scgeneformer._engine.pooling import pool_mean
from scgeneformer._engine.tokens import Tokens
from scgeneformer._errors import OutOfMemoryError

VOCABULARY = make_vocabulary()


@pytest.fixture
def bert():
    return use_own_kernels(make_bert(VOCABULARY))


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    return Tokens.from_lists([rng.choice(VOCABULARY.tokens, n, replace=False) for n in rng.integers(1, 17, 60)])


def embed(blocks, berts, tokens_per_batch=50, advance=lambda n: None):
    return embed_cells(blocks, 60, berts, VOCABULARY, [2], pool_mean, tokens_per_batch, advance)[2]


@pytest.fixture
def small_device(monkeypatch):
    """A device on which at most `limit` tokens fit; gives the tokens of every pass that was tried."""
    tried, limit, real = [], 20, module.hidden_states

    def states(bert, packed, layers):
        tried.append(packed.n_tokens)
        if packed.n_tokens > limit:
            raise error
        return real(bert, packed, layers)

    error = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(module, "hidden_states", states)
    return tried


def test_out_of_memory_halves_the_batch_and_runs_only_its_cells_again(bert, cells, log, small_device):
    found = embed([(0, cells)], [bert], 64)
    assert [n for n in small_device if n > 20] == small_device[: len([n for n in small_device if n > 20])]
    assert log().count("ran out of memory") == len([n for n in small_device if n > 20]) <= 3
    assert sum(n for n in small_device if n <= 20) == len(cells.ids)  # no cell was run twice
    small_device.clear()
    np.testing.assert_allclose(found, embed([(0, cells)], [bert], 16), atol=2e-6)


def test_out_of_memory_of_the_cpu_is_understood_too(bert, cells, monkeypatch):
    real, sizes = module.hidden_states, [2**46]  # more than any address says

    def states(*args):
        if sizes:
            torch.empty(sizes.pop())
        return real(*args)

    monkeypatch.setattr(module, "hidden_states", states)
    assert not np.isnan(embed([(0, cells)], [bert])).any()
    assert not sizes


def test_a_single_cell_that_does_not_fit_is_refused_with_what_to_do(bert, small_device):
    long = Tokens(np.arange(2, 32, dtype=np.int32), np.array([0, 30]))
    with pytest.raises(OutOfMemoryError, match=r"single cell of 30 tokens.*clear_cache.*bfloat16.*smaller model"):
        list(forward([(0, long)], bert, [1], 100))


def test_other_errors_of_the_model_are_not_taken_for_lack_of_memory(bert, cells, monkeypatch):
    def states(*args):
        raise RuntimeError("something else")

    monkeypatch.setattr(module, "hidden_states", states)
    with pytest.raises(RuntimeError, match="something else"):
        embed([(0, cells)], [bert])


def blocks_of(cells, size=7):
    return [(start, cells.slice(start, min(start + size, len(cells)))) for start in range(0, len(cells), size)]


def test_two_devices_give_the_numbers_of_one_and_count_every_cell(bert, cells):
    counted = []
    one = embed(blocks_of(cells), [bert])
    two = embed(iter(blocks_of(cells)), [bert, use_own_kernels(make_bert(VOCABULARY))], advance=counted.append)
    np.testing.assert_allclose(two, one, atol=2e-6)
    assert sum(counted) == len(cells)


def test_both_devices_work(bert, cells, monkeypatch):
    threads, real, together = set(), module.hidden_states, threading.Barrier(2, timeout=10)

    def states(*args):
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            together.wait()  # the first batch of one waits for the first of the other
        return real(*args)

    monkeypatch.setattr(module, "hidden_states", states)
    embed(blocks_of(cells), [bert, bert])
    assert len(threads) == 2


def test_an_error_on_one_device_ends_the_others_and_is_raised(bert, cells, monkeypatch):
    real, passes = module.hidden_states, []

    def states(*args):
        passes.append(1)
        if len(passes) == 3:
            raise ValueError("broken device")
        return real(*args)

    monkeypatch.setattr(module, "hidden_states", states)
    with pytest.raises(ValueError, match="broken device"):
        embed((block for block in blocks_of(cells, 1)), [bert, bert])
    assert len(passes) < len(cells)


def test_an_error_while_reading_reaches_the_caller_on_several_devices(bert, cells):
    def blocks():
        yield from blocks_of(cells)[:2]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        embed(blocks(), [bert, bert])
