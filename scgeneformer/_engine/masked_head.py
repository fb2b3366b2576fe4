"""The head of `BertForMaskedLM`: from the state of a token to one logit per token of the vocabulary."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import linear

from scgeneformer._engine.head import TransformHead

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import BertConfig, BertModel

PREFIX = "cls.predictions."
NAMES = {
    "dense.weight": "transform.dense.weight",
    "dense.bias": "transform.dense.bias",
    "norm.weight": "transform.LayerNorm.weight",
    "norm.bias": "transform.LayerNorm.bias",
    "bias": "bias",
}
"""Own name of each tensor -> its name in a weight file, behind `PREFIX`; as the stock model has them."""


class MaskedHead(TransformHead):
    """Dense layer, activation, layer norm, decoder.

    The decoder is the word embeddings of the encoder that the head is tied to, unless the head has one of its own.

    Parameters
    ----------
    config
        Of the encoder.
    tied
        Whether the decoder is the encoder's word embeddings.
    """

    def __init__(self, config: BertConfig, *, tied: bool = True) -> None:
        super().__init__(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder = None if tied else nn.Parameter(torch.zeros(config.vocab_size, config.hidden_size))
        self.words: tuple[nn.Module, ...] = ()  # in a tuple: the embeddings belong to the encoder, not to this module

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (m, n_tokens) float32 of states (m, d)."""
        decoder = self.words[0].weight if self.decoder is None else self.decoder
        return linear(super().forward(states), decoder).float() + self.bias.float()  # type: ignore[arg-type]

    def tie(self, bert: BertModel) -> MaskedHead:
        """Decode with the word embeddings of `bert`; returns the head."""
        self.words = (bert.embeddings.word_embeddings,)
        return self

    def on(self, bert: BertModel) -> MaskedHead:
        """A copy of the head beside `bert`, on its device; of a head that is not tied yet."""
        return copy.deepcopy(self).to(bert.device).tie(bert)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights by their names in a weight file."""
        return {PREFIX + NAMES[name]: tensor for name, tensor in self.state_dict().items()}

    @classmethod
    def of(cls, config: BertConfig, tensors: Mapping[str, torch.Tensor]) -> MaskedHead:
        """Build the head around tensors by their own names, with "decoder" (n_tokens, d) if it has its own."""
        with torch.device("meta"):
            head = cls(config, tied="decoder" not in tensors)
        head.load_state_dict(dict(tensors), assign=True)
        return head.eval().requires_grad_(False)
