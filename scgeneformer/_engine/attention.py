"""Attention within each cell of a packed batch, put into the stock BERT blocks by `transformers.AttentionInterface`.

Shapes: query, key, value are (1, n_heads, total, d_head), the output is (1, total, n_heads, d_head), total being the
tokens of all cells of the batch. Every variant computes softmax(Q Kᵀ / sqrt(d_head)) V cell by cell
(Vaswani et al. 2017), so that no cell sees another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.backends.cuda import is_flash_attention_available
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from scgeneformer._engine.device import AMPERE
from scgeneformer._engine.dropout_attention import dropout_attention

if TYPE_CHECKING:
    from scgeneformer._engine.packing import Packed

NAME = "scgeneformer_packed"
QUERIES_AT_ONCE = 256
HALF = (torch.bfloat16, torch.float16)
HAS_AMX = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
"""Whether the processor has matrix units, which the fused attention of torch uses and small products do not."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Packed,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend within each cell of `packed`; the signature is that of `transformers.AttentionInterface`."""
    return _variant(query, dropout)(query, key, value, packed, scaling, dropout), None


def _variant(query: torch.Tensor, dropout: float):
    if query.is_cuda:
        return _on_cuda(query, dropout)
    if dropout:
        return _dropping
    half = query.dtype in HALF
    fused = not half or query.requires_grad or (HAS_AMX and query.dtype == torch.bfloat16)
    return _per_cell if fused else _matrix_products


def _on_cuda(query: torch.Tensor, dropout: float):
    """Flash attention where it runs, else memory-efficient attention, which knows no bfloat16 before Ampere."""
    width, new = query.shape[-1], torch.cuda.get_device_capability(query.device) >= AMPERE
    together = width % 8 == 0  # the widths that kernels over all cells are made for
    if together and width <= 256 and new and query.dtype in HALF and is_flash_attention_available():
        return _flash
    if dropout:
        return _padded
    return _efficient if together and (new or query.dtype != torch.bfloat16) else _per_cell


def _per_cell(query, key, value, packed, scaling, dropout):
    """One fused attention per cell: the fastest on a CPU in float32, and in bfloat16 where it has AMX."""
    out = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling).transpose(1, 2)
        for q, k, v in zip(*(x.split(packed.lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(out, dim=1)


def _dropping(query, key, value, packed, scaling, dropout):
    """Training on a CPU: one attention with dropout per cell."""
    cells = zip(*(x[0].split(packed.lengths, dim=1) for x in (query, key, value)), strict=True)
    return torch.cat([dropout_attention(q, k, v, scaling, dropout).transpose(0, 1) for q, k, v in cells])[None]


def _matrix_products(query, key, value, packed, scaling, dropout):
    """Plain matrix products, a few queries at a time so that the weights stay in the processor's cache.

    On a CPU in half precision without AMX, for cells of 1,000 to 2,000 tokens, over twice as fast as the fused kernel
    or as all queries at once; with AMX the fused kernel is 1.6 times as fast in bfloat16.
    """
    total, n_heads, d_head = query.shape[2], query.shape[1], query.shape[3]
    out = query.new_empty(1, total, n_heads, d_head)
    start, query = 0, query * scaling
    for n in packed.lengths:
        queries, keys, values = (x[0, :, start : start + n].contiguous() for x in (query, key, value))
        for first in range(0, n, QUERIES_AT_ONCE):
            some = queries[:, first : first + QUERIES_AT_ONCE].contiguous()  # (n_heads, up to QUERIES_AT_ONCE, d_head)
            weights = torch.bmm(some, keys.transpose(1, 2)).softmax(dim=-1)  # (n_heads, some, n)
            out[0, start + first : start + first + some.shape[1]] = torch.bmm(weights, values).transpose(0, 1)
        start += n
    return out


def _flash(query, key, value, packed, scaling, dropout):
    """Flash attention (Dao 2023) over the whole batch: CUDA in half precision.

    `torch.nn.attention.varlen`, the public name of this operator, knows no dropout.
    """
    longest = max(packed.lengths)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (total, n_heads, d_head)
    places = packed.offsets, packed.offsets, longest, longest
    out = torch.ops.aten._flash_attention_forward(q, k, v, *places, dropout, False, False, scale=scaling)[0]
    return out[None]


def _efficient(query, key, value, packed, scaling, dropout):
    """Memory-efficient attention (Rabe and Staats 2021) over the whole batch: CUDA in float32, or before Ampere.

    Without dropout alone: of packed cells, torch 2.11 drops other weights backward than forward.
    """
    longest = max(packed.lengths)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # (1, total, n_heads, d_head)
    places, backward = (packed.offsets, packed.offsets, longest, longest), torch.is_grad_enabled()
    run = torch.ops.aten._efficient_attention_forward
    return run(q, k, v, None, *places, 0.0, 0, backward, scale=scaling)[0]


def _padded(query, key, value, packed, scaling, dropout):
    """One fused attention over all cells, padded to the longest: training where flash attention does not run.

    A kernel for each cell and block is more than the host can launch.
    """
    places, mask = packed.padding  # (total,) and (n_cells, 1, 1, longest)
    n_cells, longest = len(mask), mask.shape[-1]
    rows = torch.cat([x.squeeze(0).transpose(0, 1) for x in (query, key, value)], dim=1)  # (total, 3 n_heads, d_head)
    padded = rows.new_zeros(n_cells * longest, *rows.shape[1:]).index_copy(0, places, rows)
    q, k, v = padded.view(n_cells, longest, *rows.shape[1:]).transpose(1, 2).chunk(3, dim=1)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, places)[None]


AttentionInterface.register(NAME, packed_attention)
