"""Which weights are trained, and how fast those of each block."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from scgeneformer._training.width import slows

if TYPE_CHECKING:
    from torch import nn
    from transformers import BertModel

_BLOCK = re.compile(r"bert\..*\bencoder\.layer\.(\d+)\.")


def freeze(bert: BertModel, n_blocks: int, *, embeddings: bool = False, positions: bool = False) -> None:
    """Leave the first blocks as they are, as `freeze_layers` of the reference does.

    Parameters
    ----------
    bert
        The encoder.
    n_blocks
        Blocks, from the first on, that are not trained.
    embeddings
        Leave all embeddings as they are, too.
    positions
        Leave the position embeddings as they are, too.
    """
    for block in bert.encoder.layer[:n_blocks]:
        block.requires_grad_(False)
    if embeddings:
        bert.embeddings.requires_grad_(False)
    if positions:
        bert.embeddings.position_embeddings.requires_grad_(False)


def depth_of(name: str, n_blocks: int) -> int:
    """Depth of a weight by its name: 0 for embeddings, n for block n, counted from 1, `n_blocks` + 1 for the head."""
    if match := _BLOCK.match(name):
        return int(match[1]) + 1
    return 0 if name.startswith("bert.") else n_blocks + 1


def parameter_groups(
    network: nn.Module,
    n_blocks: int,
    learning_rate: float,
    layer_decay: float,
    weight_decay: float,
    times_wider: float = 1.0,
) -> list[dict[str, Any]]:
    """Weights to be trained, in groups of one learning rate and weight decay.

    The learning rate of depth n is ``learning_rate * layer_decay ** (n_blocks + 1 - n)`` (Clark et al. 2020, ELECTRA;
    Bao et al. 2021, BEiT). Biases and layer norms do not decay.

    Parameters
    ----------
    network
        The module; its weights that need no gradient are left out.
    n_blocks
        Blocks of the encoder.
    learning_rate
        Of the head.
    layer_decay
        Factor from each block to the one before; 1 trains all at the same rate.
    weight_decay
        Of matrices.
    times_wider
        How many times as wide as the network is for which the rates were found: weights of :func:`width.slows` are
        trained so many times slower, and their weight decay, which is multiplied by the rate, is so many times larger.
    """
    groups: dict[tuple[int, bool, float], list] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            slower = times_wider if slows(name, parameter) else 1.0
            groups.setdefault((depth_of(name, n_blocks), parameter.ndim > 1, slower), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay ** (n_blocks + 1 - depth) / slower,
            "weight_decay": weight_decay * slower if decays else 0.0,
        }
        for (depth, decays, slower), parameters in sorted(groups.items())
    ]
