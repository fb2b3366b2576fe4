"""First-order estimates of every deletion from backward passes: what the screen is compared with.

A gate on every gene as a key, shared by all heads and blocks, is 1 in the unperturbed cell and 0 where the gene is
deleted; the derivative at 1 with respect to all gates comes from one backward pass. With moving positions a suffix sum
of gradient · (position embedding of i − 1 minus that of i) is added. The shift, to leading order a squared norm of the
response, is estimated from k random projections of it, hence k backward passes over one kept graph.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize, scaled_dot_product_attention
from transformers import BertModel


def graph(bert: BertModel, ids: np.ndarray, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logarithms of the gates (n,), position embeddings (n, d), and the hidden state (n, d) that depends on them."""
    tokens = torch.from_numpy(ids.astype(np.int64))
    gates = torch.zeros(len(ids), requires_grad=True)
    positions = bert.embeddings.position_embeddings.weight[: len(ids)].detach().clone().requires_grad_(True)
    words = bert.embeddings.word_embeddings(tokens) + bert.embeddings.token_type_embeddings.weight[0]
    hidden = bert.embeddings.LayerNorm(words + positions)
    for block in bert.encoder.layer[:layer]:
        attention = block.attention.self
        heads = attention.num_attention_heads, attention.attention_head_size
        q, k, v = (
            f(hidden).unflatten(-1, heads).transpose(0, 1) for f in (attention.query, attention.key, attention.value)
        )
        # the gate is one more dimension of the key, beside a one in the query: no n × n mask has to be kept
        q = torch.cat([q * heads[1] ** -0.5, torch.ones_like(q[..., :1])], dim=-1)
        k = torch.cat([k, gates[None, :, None].expand(heads[0], -1, -1)], dim=-1)
        v = torch.cat([v, torch.zeros_like(v[..., :1])], dim=-1)
        context = scaled_dot_product_attention(q[None], k[None], v[None], scale=1.0)[0, ..., :-1]
        attended = block.attention.output(context.transpose(0, 1).flatten(1), hidden)
        hidden = block.output(block.intermediate(attended), attended)
    return gates, positions, hidden


def deletions(loss: torch.Tensor, gates: torch.Tensor, positions: torch.Tensor, hold: bool) -> torch.Tensor:
    """Change of `loss` with every deletion, to first order, (n,)."""
    by_gate, by_position = torch.autograd.grad(loss, (gates, positions), retain_graph=True)
    if hold:
        return -by_gate
    step = (by_position[1:] * (positions[:-1] - positions[1:]).detach()).sum(dim=1)  # of the genes 1 to n − 1
    return torch.cat([step.flip(0).cumsum(0).flip(0), step.new_zeros(1)]) - by_gate


def shift_by_projections(bert: BertModel, ids: np.ndarray, layer: int, hold: bool, k: int, seed: int = 0) -> np.ndarray:
    """1 − mean cosine of every deletion from k random projections, (n,)."""
    gates, positions, hidden = graph(bert, ids, layer)
    unit, length = normalize(hidden.detach(), dim=1), hidden.detach().norm(dim=1, keepdim=True)
    generator, total = torch.Generator().manual_seed(seed), torch.zeros(len(ids))
    for _ in range(k):
        signs = torch.randint(0, 2, hidden.shape, generator=generator).float() * 2 - 1
        direction = signs - (signs * unit).sum(dim=1, keepdim=True) * unit
        total += deletions((direction * hidden / length).sum(), gates, positions, hold).square()
    return (total / k / 2 / (len(ids) - 1)).double().numpy()


def towards_goals(bert: BertModel, ids: np.ndarray, layer: int, hold: bool, goals: torch.Tensor) -> np.ndarray:
    """Shift of the mean embedding towards every goal, one backward pass for each, (n_states, n)."""
    gates, positions, hidden = graph(bert, ids, layer)
    state = hidden.detach().double()
    before = normalize(state.mean(dim=0), dim=0)
    without = normalize(state.sum(dim=0) - state, dim=1) - before  # what leaving the gene out of the mean does
    rows = []
    for goal in goals:
        loss = normalize(hidden.mean(dim=0), dim=0) @ goal.to(hidden.dtype)
        rows.append(deletions(loss, gates, positions, hold).double() + without @ goal)
    return torch.stack(rows).numpy()
