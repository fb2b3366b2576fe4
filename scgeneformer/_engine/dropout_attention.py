"""Attention with dropout on a CPU, for training; its memory grows with the tokens of a cell, not with their square.

torch's fused kernel knows no dropout on a CPU, and what takes its place keeps the weights of all pairs of tokens, three
times over, until the backward pass: 200 MB for every block and cell of 2048 genes in the V1-10M shape. Here a few
queries at a time are run, only the result is kept, and the weights are computed once more backward, with the same ones
dropped.
"""

from __future__ import annotations

import math
from typing import Any

import torch

QUERIES_AT_ONCE = 256


def dropout_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float
) -> torch.Tensor:
    """Compute dropout(softmax(Q Kᵀ * scaling)) V with gradients (Vaswani et al. 2017).

    Parameters
    ----------
    query, key, value
        (n_heads, n, d_head) of one cell.
    scaling
        Factor of the products.
    dropout
        Share of the weights that is dropped, the others being divided by 1 - dropout; above 0 and below 1. Which ones
        is drawn from torch's random state.

    Returns
    -------
    (n_heads, n, d_head).
    """
    seed = int(torch.randint(2**62, ()))
    return _DropoutAttention.apply(query, key, value, scaling, dropout, seed)


class _DropoutAttention(torch.autograd.Function):
    """Forward and backward over a few queries at a time."""

    @staticmethod
    def forward(ctx: Any, query, key, value, scaling, dropout, seed):
        out = torch.empty_like(query)
        generator = torch.Generator().manual_seed(seed)
        for some in _ranges(query):
            weights = _weights(query[:, some], key, scaling)
            _drop(weights, dropout, generator)
            out[:, some] = torch.bmm(weights, value)
        ctx.save_for_backward(query, key, value, out)
        ctx.settings = scaling, dropout, seed
        return out

    @staticmethod
    def backward(ctx: Any, *gradients):
        (grad,) = gradients
        query, key, value, out = ctx.saved_tensors
        scaling, dropout, seed = ctx.settings
        of_query, of_key, of_value = (torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value))
        # softmax's gradient is W * (dW - sum(dW * W)), and that sum is the one of grad * out
        sums = (grad * out).sum(dim=-1, keepdim=True)
        generator = torch.Generator().manual_seed(seed)
        for some in _ranges(query):
            weights = _weights(query[:, some], key, scaling)
            kept = weights.clone()
            dropped = _drop(kept, dropout, generator)
            of_value.baddbmm_(kept.transpose(1, 2), grad[:, some])
            of_weights = torch.bmm(grad[:, some], value.transpose(1, 2)).div_(1 - dropout)
            of_weights.view(-1)[dropped] = 0
            of_products = of_weights.sub_(sums[:, some]).mul_(weights).mul_(scaling)
            of_query[:, some] = torch.bmm(of_products, key)
            of_key.baddbmm_(of_products.transpose(1, 2), query[:, some])
        return of_query, of_key, of_value, None, None, None


def _ranges(query: torch.Tensor) -> list[slice]:
    return [slice(start, start + QUERIES_AT_ONCE) for start in range(0, query.shape[1], QUERIES_AT_ONCE)]


def _weights(query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    return torch.bmm(query * scaling, key.transpose(1, 2)).softmax(dim=-1)


def _drop(weights: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """Set a random share of the weights to zero and scale the others, in place; gives the places, flat.

    Every weight is dropped independently: the distances between dropped ones are geometric, so that only as many random
    numbers are needed as weights are dropped.
    """
    n = weights.numel()
    places = torch.empty(0, dtype=torch.int64)
    last = -1
    while last < n:
        expected = (n - last) * dropout
        m = int(expected + 4 * math.sqrt(expected) + 16)
        gaps = torch.empty(m, dtype=torch.float64).geometric_(dropout, generator=generator).long()
        more = last + gaps.cumsum(0)
        places, last = torch.cat([places, more]), int(more[-1])
    places = places[: int(torch.searchsorted(places, n))]
    weights.div_(1 - dropout)
    weights.view(-1)[places] = 0
    return places
