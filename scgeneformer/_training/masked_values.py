"""Pretraining of models of value bins: the bins of some genes are masked and predicted from the rest of the cell.

Tokens of the context, such as the batch, become ``<mask>`` in 40 % of the cells, so that a model knows what to make of
a cell whose context is unknown.

As in scGPT (Cui et al. 2024): a masked gene keeps its token and loses its value. Of each cell 40 % of the genes are
chosen, the share in scGPT's examples, and all of them are masked. The loss is the cross-entropy over the bins, where
scGPT takes the squared error of one number: bins are quantiles, between which differences mean no fixed difference of
counts, and a cross-entropy can be told beside that of knowing their frequencies alone, as that of masked genes is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import nn

from scgeneformer._engine.head import TransformHead
from scgeneformer._training.dataset import IGNORED, TokenDataset
from scgeneformer._training.masked_genes import MASK, Objective

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import BertConfig, BertModel

    from scgeneformer._engine.value_bins import ValueBinned
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.recipe import Recipe

SHARE = 0.4
PREFIX = "masked_values."


class ValueHead(TransformHead):
    """Dense layer, activation, layer norm, and one logit per bin.

    Parameters
    ----------
    config
        Of the encoder.
    n_bins
        Bins, that of zero included.
    """

    def __init__(self, config: BertConfig, n_bins: int) -> None:
        super().__init__(config)
        self.bins = nn.Linear(config.hidden_size, n_bins)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (m, n_bins) float32 of states (m, d)."""
        return self.bins(super().forward(states)).float()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights by their names in a weight file."""
        return {PREFIX + name: tensor for name, tensor in self.state_dict().items()}

    @classmethod
    def of(cls, config: BertConfig, tensors: Mapping[str, torch.Tensor]) -> ValueHead:
        """Build the head from tensors by their names in a weight file."""
        own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        head = cls(config, len(own["bins.bias"]))
        head.load_state_dict(own)
        return head


@dataclass(frozen=True, eq=False)
class MaskedValues(Objective):
    """Which bin the value of a gene was in.

    Parameters
    ----------
    vocabulary
        Genes and special tokens, with value bins as their encoding.
    start
        Head to begin with; None draws one.
    """

    vocabulary: Vocabulary
    start: ValueHead | None = None
    entries: ClassVar[dict[str, Any]] = {"architectures": ["BertModel"]}
    needs: ClassVar[tuple[str, ...]] = ("<pad>",)
    hidden: ClassVar[str] = "value bins"

    @property
    def sizes(self) -> list[int]:
        """Bins."""
        return [self._encoding.n_bins]

    @property
    def _encoding(self) -> ValueBinned:
        return self.vocabulary.encoding  # type: ignore[return-value]

    def head(self, bert: BertModel, recipe: Recipe, seed: int) -> ValueHead:
        """The head before training."""
        head = ValueHead(bert.config, self._encoding.n_bins)
        if self.start is None:
            return head.initialise(bert.config.initializer_range, seed)
        head.load_state_dict(self.start.state_dict())
        return head

    def hide(self, item: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Choose 40 % of the genes of a cell, to the nearest whole number and at least one, and mask their bins."""
        bins = item["positions"]
        genes = np.flatnonzero(bins < self._encoding.n_bins)
        chosen = rng.permutation(genes)[: max(1, round(SHARE * len(genes)))]
        masked, labels = bins.copy(), np.full(len(bins), IGNORED, dtype=np.int64)
        masked[chosen], labels[chosen] = self._encoding.mask_position, bins[chosen]
        return {**item, "tokens": self._forget(item["tokens"], rng), "positions": masked, "token_labels": labels}

    def _forget(self, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask each token of the context with a probability of 40 %."""
        n_context, lead = len(self._encoding.context), self.vocabulary.n_lead
        if not n_context:
            return tokens
        tokens, forgotten = tokens.copy(), rng.random(n_context) < SHARE
        tokens[lead - n_context : lead][forgotten] = self.vocabulary.special[MASK]
        return tokens

    def frequencies(self, cells: TokenDataset) -> np.ndarray:
        """How often each bin is in the cells, and one more (Laplace), (n_bins,)."""
        n_bins, bins = self._encoding.n_bins, np.asarray(cells.positions)
        return np.bincount(bins, minlength=n_bins)[:n_bins] + 1
