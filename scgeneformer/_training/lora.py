"""Low-rank adapters on the queries and values of an encoder (Hu et al. 2021), by peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from scgeneformer._optional import require

if TYPE_CHECKING:
    from transformers import BertModel

TARGETS = ("query", "value")


def add_adapters(bert: BertModel, rank: int, *, alpha: float, dropout: float, first_block: int, seed: int) -> BertModel:
    """Put adapters into an encoder, in place, and let nothing of it but them be trained; returns it.

    A linear map W becomes W + alpha / rank * B A, with A (rank, d) drawn as peft does and B (d, rank) zero: at first
    the encoder is what it was.

    Parameters
    ----------
    bert
        The encoder.
    rank
        Rank of the adapters.
    alpha
        Their scale.
    dropout
        Share of the inputs of the adapters that is dropped in training.
    first_block
        Block, from 0, that is the first to get them.
    seed
        Of their weights.

    Raises
    ------
    MissingExtraError
        If peft is not installed.
    """
    peft = require("peft", "lora", "lora=")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(TARGETS),
        layers_to_transform=list(range(first_block, bert.config.num_hidden_layers)),
        layers_pattern="layer",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.inject_adapter_in_model(config, bert)


def merge_adapters(bert: BertModel) -> BertModel:
    """Add the adapters to the weights they stand beside and take them out, in place; returns the encoder."""
    blocks: Any = bert.encoder.layer
    for attention in (block.attention.self for block in blocks):
        for name in TARGETS:
            adapted = getattr(attention, name)
            if hasattr(adapted, "merge"):
                adapted.merge()
                setattr(attention, name, adapted.get_base_layer())
    if hasattr(bert, "peft_config"):
        del bert.peft_config
    return bert
