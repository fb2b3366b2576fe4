r"""Maximal update parametrisation: rates found for a narrow model serve a wide one.

With m = width / base width, and Adam (Yang et al. 2022, "Tensor Programs V", arXiv 2203.03466, tables 3 and 8):

| weights | standard deviation at the start | learning rate |
|---|---|---|
| embeddings, layer norms, biases | as it is | as it is |
| matrices within the blocks and of the head's dense layer | as it is, times m^-1/2 | as it is, divided by m |
| the decoder, which is tied to the embeddings | its logits are divided by m | as it is |

The head's layer norm stands right before the decoder, so it carries that last divisor: its weight begins at 1 / m, and
both its weight and its bias, which are then m times smaller, are trained m times slower. What is saved is an ordinary
BERT. The product of rate and weight decay stays as it is (as in the `mup` package of the authors; Wang & Aitchison
2024, arXiv 2405.13698). At m = 1 nothing changes.

The width of an attention head must not change with the width of the model: attention is divided by the square root of
the former, as always. The feed-forward width must be in proportion.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn
    from transformers import BertConfig, BertModel

HIDDEN = re.compile(r"bert\..*\bencoder\.layer\.\d+\..*weight|head\.dense\.weight")
BEFORE_DECODER = ("head.norm.weight", "head.norm.bias")


def times_wider(config: BertConfig, base_width: int | None) -> float:
    """m: how many times as wide as the base a model is; 1 without a base."""
    return 1.0 if base_width is None else config.hidden_size / base_width


def slows(name: str, parameter: torch.Tensor) -> bool:
    """Whether the learning rate of a weight of a `Network` falls with the width of the model."""
    return (parameter.ndim > 1 and HIDDEN.fullmatch(name) is not None) or name in BEFORE_DECODER


def begin_as_wide(bert: BertModel, head: nn.Module, m: float) -> None:
    """Scale weights that were drawn as for the base width to those of a model that is `m` times as wide, in place."""
    with torch.no_grad():
        for part, module in (("bert", bert), ("head", head)):
            for name, parameter in module.named_parameters(prefix=part):
                if slows(name, parameter):
                    parameter.mul_(1 / m if name in BEFORE_DECODER else m**-0.5)
