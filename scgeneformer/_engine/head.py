"""What the heads have in common: how their weights are drawn, and how those of masked tokens begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.activations import ACT2FN

if TYPE_CHECKING:
    from typing import Self

    from transformers import BertConfig


class Head(nn.Module):
    """What reads the states of an encoder."""

    def initialise(self, spread: float, seed: int) -> Self:
        """Draw the linear maps as BERT does, normal with standard deviation `spread`, biases 0; returns the head."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.copy_(torch.empty(layer.weight.shape).normal_(0.0, spread, generator=generator))
                    layer.bias.zero_()
        return self


class TransformHead(Head):
    """Dense layer, activation, layer norm: how BERT's prediction of what is masked begins."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, activation = config.hidden_size, config.hidden_act
        self.dense = nn.Linear(width, width)
        self.activation = ACT2FN[activation] if isinstance(activation, str) else activation
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transformed states (m, d) of states (m, d)."""
        return self.norm(self.activation(self.dense(states)))
