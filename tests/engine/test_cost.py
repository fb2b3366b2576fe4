from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import make_bert, make_vocabulary

import scgeneformer as gf
from scgeneformer._engine import cost
from scgeneformer._errors import DataError


@pytest.fixture
def bert():
    return make_bert(make_vocabulary())


def test_operations_are_those_of_the_matrix_products(bert):
    n, d, f = 10, 16, 32  # one block: four d x d maps, d x f, f x d, then Q Kᵀ and weights V over all heads
    products = 2 * n * (4 * d * d + d * f + f * d) + 2 * (2 * n * n * d)
    assert cost.flops_per_cell(bert, 1, np.array([n])).tolist() == [products]
    assert cost.flops_per_cell(bert, 3, np.array([n])).tolist() == [3 * products]


def test_operations_agree_with_what_torch_counts(bert):
    from torch.utils.flop_counter import FlopCounterMode

    bert.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bert(torch.ones(1, 10, dtype=torch.long))
    assert counter.get_total_flops() == cost.flops_per_cell(bert, 3, np.array([10]))[0]


@pytest.mark.parametrize(("cells", "expected"), [(0.5, 1), (1, 1), (5, 4), (2**30, cost.LARGEST_PART)])
def test_cells_that_are_kept_together_are_a_power_of_two_within_the_operations(bert, monkeypatch, cells, expected):
    longest = cost.flops_per_cell(bert, 3, np.array([bert.config.max_position_embeddings]))[0]
    monkeypatch.setattr(cost, "CPU_PART", cells * longest)
    assert cost.cells_per_part(bert, 3) == expected
    monkeypatch.undo()
    assert cost.cells_per_part(bert, 0) == cost.LARGEST_PART  # the embedding output costs nothing


def test_a_budget_is_the_one_asked_for_or_that_of_the_session(bert):
    assert cost.choose_tokens_per_batch(bert, 77) == 77
    with gf.settings.override(tokens_per_batch=99):
        assert cost.choose_tokens_per_batch(bert, None) == 99
    assert cost.choose_tokens_per_batch(bert, None) == cost.CPU_TOKENS_PER_BATCH
    assert cost.choose_tokens_per_batch(bert, 1) == 1
    with pytest.raises(DataError, match="at least 1"):
        cost.choose_tokens_per_batch(bert, 0)
    for wrong in ("100", 100.5, True, float("nan")):
        with gf.settings.override(tokens_per_batch=wrong), pytest.raises(DataError, match="must be a whole number of"):
            cost.choose_tokens_per_batch(bert, None)


@pytest.mark.parametrize(("free", "expected"), [(0, 4096), (25_600_000, 20_000), (10**12, cost.CUDA_TOKENS_PER_BATCH)])
def test_on_cuda_a_batch_fills_half_of_the_free_memory_within_limits(free, expected, monkeypatch):
    config = SimpleNamespace(hidden_size=10, intermediate_size=20)  # 4 * (12 * 10 + 2 * 20) = 640 bytes a token
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    assert cost.choose_tokens_per_batch(SimpleNamespace(device=torch.device("cuda"), config=config), None) == expected


def test_the_estimate_grows_with_the_cells_and_is_said(bert, log, monkeypatch):
    monkeypatch.setattr(cost, "matmul_rate", lambda *_: 1e9)
    few = cost.announce(bert, 2, np.array([10, 10]), 100, "toy")
    assert cost.announce(bert, 2, np.array([10, 10]), 200, "toy") == pytest.approx(2 * few)
    assert "100 cells with toy on cpu in float32 take about 1 second" in log()
    assert "Faster" not in log()


def test_on_a_slow_cpu_the_faster_choices_are_named(bert, log, monkeypatch):
    monkeypatch.setattr(cost, "matmul_rate", lambda device, dtype, width: 1e6 if dtype == torch.float32 else 5e6)
    cost.announce(bert, 2, np.array([10]), 10**6, "toy")
    assert "WARNING" in log()
    assert "dtype='bfloat16', a GPU, a smaller model ('V1-10M'" in log()


@pytest.mark.parametrize(("times", "named"), [(1.4, False), (1.6, True)])
def test_half_precision_is_named_where_it_is_half_as_fast_again(bert, log, monkeypatch, times, named):
    monkeypatch.setattr(
        cost, "matmul_rate", lambda device, dtype, width: 1e6 if dtype == torch.float32 else times * 1e6
    )
    cost.announce(bert, 2, np.array([10]), 10**6, "toy")
    assert ("dtype='bfloat16'" in log()) == named


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[
            (0.1, "1 second"),
            (1.6, "2 seconds"),
            (80, "80 seconds"),
            (120, "2 minutes"),
            (7200, "2 hours"),
            (1e6, "12 days"),
        ],
        *[(89, "89 seconds"), (90, "2 minutes"), (5399, "90 minutes"), (5400, "2 hours")],  # from 1.5 of a unit on
        *[(129_599, "36 hours"), (129_600, "2 days")],
    ],
)
def test_durations_are_in_the_unit_a_person_would_use(seconds, text):
    assert cost.readable(seconds) == text


def test_the_measured_rate_is_a_rate():
    assert 1e8 < cost.matmul_rate("cpu", torch.float32, 128) < 1e14


def test_half_precision_that_the_processor_only_emulates_is_warned_of(bert, log, monkeypatch):
    monkeypatch.setattr(cost, "matmul_rate", lambda device, dtype, width: 2e10 if dtype == torch.float32 else 1e9)
    cost.announce(bert.to(torch.bfloat16), 2, np.array([10]), 10, "toy")
    assert "20 times slower in bfloat16 than in float32: use dtype='float32'" in log()


def test_a_scan_costs_its_passes(bert, monkeypatch):
    monkeypatch.setattr(cost, "matmul_rate", lambda *_: 1e9)
    once = cost.announce(bert, 2, np.array([10, 20]), 100, "toy")
    assert cost.announce(bert, 2, np.array([10, 20]), 100, "toy", passes=np.array([3, 3])) == pytest.approx(3 * once)
