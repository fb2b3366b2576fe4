"""Attention with dropout: gradients, the share that is dropped, and the same ones dropped forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from scgeneformer._engine import dropout_attention as module
from scgeneformer._engine.dropout_attention import dropout_attention


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return tuple(torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))


@pytest.fixture(params=[3, 256], ids=["three queries at a time", "all queries at once"])
def _queries(request, monkeypatch):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", request.param)


def seeded(query, key, value, dropout=0.3):
    torch.manual_seed(3)
    return dropout_attention(query, key, value, 0.5, dropout)


@pytest.mark.usefixtures("_queries")
def test_gradients_are_those_of_finite_differences(qkv):
    assert torch.autograd.gradcheck(seeded, qkv)


@pytest.mark.usefixtures("_queries")
def test_without_drops_it_is_plain_attention(qkv):
    expected = scaled_dot_product_attention(*qkv, scale=0.5)
    torch.testing.assert_close(seeded(*qkv, dropout=1e-12), expected)


def test_naive_twin(qkv, monkeypatch):
    """The places dropped, handed to plain autograd, give the same result and gradients."""
    places = []
    real = module._drop
    monkeypatch.setattr(module, "_drop", lambda *a: places.append(real(*a)) or places[-1])
    out = seeded(*qkv)
    query, key, value = qkv
    kept = torch.ones(2, 7, 7, dtype=torch.float64)
    kept.view(-1)[places[0]] = 0
    weights = (query @ key.transpose(1, 2) * 0.5).softmax(-1) * kept / 0.7
    torch.testing.assert_close(out, weights @ value)
    grad = torch.randn_like(out)
    ours = torch.autograd.grad(out, qkv, grad)
    assert torch.equal(places[0], places[1])
    torch.testing.assert_close(ours, torch.autograd.grad(weights @ value, qkv, grad))


@pytest.mark.parametrize("dropout", [0.02, 0.1, 0.5, 0.9])
def test_every_weight_is_dropped_with_the_same_probability(dropout):
    generator = torch.Generator().manual_seed(0)
    dropped = np.zeros(1000)
    for _ in range(400):
        weights = torch.ones(10, 100)
        places = module._drop(weights, dropout, generator)
        assert torch.equal(torch.nonzero(weights.view(-1) == 0)[:, 0], places)
        assert torch.all((weights == 0) | (weights == torch.tensor(1 / (1 - dropout))))
        dropped[places] += 1
    spread = np.sqrt(dropout * (1 - dropout) / 400)
    assert abs(dropped / 400 - dropout).max() < 5 * spread
    assert abs(dropped.mean() / 400 - dropout) < 5 * spread / np.sqrt(1000)


def test_the_random_state_decides(qkv):
    assert torch.equal(seeded(*qkv), seeded(*qkv))
    assert not torch.equal(seeded(*qkv), dropout_attention(*qkv, 0.5, 0.3))
