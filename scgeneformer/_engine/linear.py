"""Linear maps of an encoder in half precision on a CPU: bias and ReLU are part of the matrix product.

`torch.nn.functional.linear` first writes the bias into every row of the result, and ReLU takes one more pass, into
fresh memory, which is three times the time of the product of width 256 before it. `mkldnn::_linear_pointwise`, to
which torch.compile turns them both, needs neither. In float32 nothing is gained.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertIntermediate


class Linear(nn.Linear):
    """Linear map with its bias in the product."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., d) to (..., d_out)."""
        return _product(self, states, "none") if _fits(self, states) else super().forward(states)


class Intermediate(BertIntermediate):
    """First linear map of a feed-forward network and its activation, in the product too if it is ReLU."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., d) to (..., feed-forward width)."""
        dense, activation = self.dense, self.intermediate_act_fn
        if isinstance(dense, Linear) and isinstance(activation, nn.ReLU) and _fits(dense, states):
            return _product(dense, states, "relu")
        return super().forward(states)


OWN: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, BertIntermediate: Intermediate}


def use_own_products(bert: nn.Module) -> None:
    """Let the modules of an encoder become their own kind here; parameters, names and hooks stay as they are."""
    for module in bert.modules():
        module.__class__ = OWN.get(type(module), type(module))


def _product(linear: nn.Linear, states: torch.Tensor, then: str) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, linear.weight, linear.bias, then, [], "")


def _fits(linear: nn.Linear, states: torch.Tensor) -> bool:
    """Whether the product exists for these states; it has no gradient, and knows no autocast."""
    same = states.dtype == linear.weight.dtype
    return same and states.is_cpu and not torch.is_grad_enabled() and _computed_in(states.dtype)


@cache
def _computed_in(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and this processor computes in a half precision."""
    supported = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    ops = torch.ops.mkldnn
    there = torch.backends.mkldnn.is_available() and hasattr(ops, "_linear_pointwise")
    return there and dtype in supported and bool(getattr(ops, supported[dtype])())
