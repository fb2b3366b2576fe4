"""Pretraining: genes that were masked are predicted from the rest of their cell (Devlin et al. 2019).

As in Theodoris et al. 2023: 15 % of the genes of a cell are chosen; of these 80 % become ``<mask>``, 10 % a random
gene and 10 % stay as they are; the loss is the mean cross-entropy over all of them. Special tokens are never chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch

from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.masked_head import MaskedHead
from scgeneformer._engine.packing import batches
from scgeneformer._training.dataset import IGNORED, TokenDataset, collate
from scgeneformer._training.network import loss_of, read_targets
from scgeneformer._training.task import Task

if TYPE_CHECKING:
    from transformers import BertModel

    from scgeneformer._engine.packing import Packed
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.network import Network
    from scgeneformer._training.recipe import Recipe

SHARE, TO_MASK, TO_RANDOM = 0.15, 0.8, 0.1
MASK = "<mask>"
TOKENS_AT_ONCE = 16_384  # in validation: the logits of 15 % of them are 250 MB for 25,000 tokens


class Objective(Task, Protocol):
    """What is hidden from the model in pretraining, and predicted."""

    entries: ClassVar[dict[str, Any]]  # of config.json, beyond those of the encoder
    needs: ClassVar[tuple[str, ...]]  # special tokens
    hidden: ClassVar[str]  # what is hidden, in words: "genes"

    def hide(self, item: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A cell of a :class:`TokenDataset` with something hidden, and "token_labels" (n,) that say what it was."""

    def frequencies(self, cells: TokenDataset) -> np.ndarray:
        """How often each class is in some cells, and one more, (n_classes,); 0 for what is never predicted."""

    def read(self, states: torch.Tensor, packed: Packed, targets: torch.Tensor | None) -> torch.Tensor:
        """The states of the genes that were chosen, (m, d)."""
        return read_targets(states, packed, targets)

    def measure(self, network: Network, cells: TokenDataset) -> dict[str, float]:
        """Mean loss and accuracy over all genes that were chosen."""
        network.eval()
        device, budget = network.bert.device, min(choose_tokens_per_batch(network.bert, None), TOKENS_AT_ONCE)
        loss = right = counted = 0.0
        with torch.inference_mode():
            for start, stop in batches(cells.lengths, budget):
                batch = collate([cells[i] for i in range(start, stop)])
                batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
                labels = batch.pop("labels")
                logits = network(**batch)["logits"].float()
                loss += float(loss_of(logits, labels, network.sizes, None, 1))
                right += int((logits.argmax(dim=1) == labels[:, 0]).sum())
                counted += len(labels)
        return {"loss": loss / max(counted, 1), "accuracy": right / max(counted, 1)}


@dataclass(frozen=True, eq=False)
class MaskedDataset(TokenDataset):
    """Cells of which something is hidden, chosen anew in each epoch from seed, epoch and number of the cell.

    Parameters
    ----------
    ids, offsets, labels, positions
        As in :class:`TokenDataset`; there are no labels.
    objective
        What is hidden.
    seed
        Of the choice.
    epoch
        The epoch, in memory that processes which load data share.
    """

    objective: Objective = field(kw_only=True)
    seed: tuple[int, ...] = field(kw_only=True)
    epoch: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64).share_memory_())

    @classmethod
    def of(cls, cells: TokenDataset, objective: Objective, *seed: int) -> MaskedDataset:
        """The same cells."""
        return cls(cells.ids, cells.offsets, cells.labels, cells.positions, objective=objective, seed=seed)

    def begin_epoch(self, epoch: int) -> None:
        """Choose anew."""
        self.epoch.fill_(epoch)

    def __getitem__(self, cell: int) -> dict[str, Any]:
        item = super().__getitem__(cell)
        del item["labels"]
        return self.objective.hide(item, np.random.default_rng((*self.seed, int(self.epoch), cell)))


@dataclass(frozen=True, eq=False)
class MaskedGenes(Objective):
    """Which gene stood at a place that was masked.

    Parameters
    ----------
    vocabulary
        Genes and special tokens.
    start
        Head to begin with; None draws one.
    """

    vocabulary: Vocabulary
    start: MaskedHead | None = None
    entries: ClassVar[dict[str, Any]] = {"architectures": ["BertForMaskedLM"], "tie_word_embeddings": True}
    needs: ClassVar[tuple[str, ...]] = ("<pad>", MASK)
    hidden: ClassVar[str] = "genes"

    @property
    def sizes(self) -> list[int]:
        """Tokens of the vocabulary."""
        return [self.vocabulary.n_tokens]

    def head(self, bert: BertModel, recipe: Recipe, seed: int) -> MaskedHead:
        """The head, tied to `bert`."""
        head = MaskedHead(bert.config)
        if self.start is None:
            head.initialise(bert.config.initializer_range, seed)
        else:
            head.load_state_dict(self.start.state_dict())
        return head.tie(bert)

    def hide(self, item: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Choose 15 % of the genes of a cell, to the nearest whole number and at least one, and mask them."""
        tokens = item["tokens"]
        genes = np.flatnonzero(self._is_gene[tokens])
        chosen = rng.permutation(genes)[: max(1, round(SHARE * len(genes)))]
        fate = rng.random(len(chosen))
        others = rng.choice(self.vocabulary.tokens, len(chosen))
        new = np.where(fate < TO_MASK + TO_RANDOM, others, tokens[chosen])
        new = np.where(fate < TO_MASK, self.vocabulary.special[MASK], new)
        masked, labels = tokens.copy(), np.full(len(tokens), IGNORED, dtype=np.int64)
        masked[chosen], labels[chosen] = new, tokens[chosen]
        return {**item, "tokens": masked, "token_labels": labels}

    def frequencies(self, cells: TokenDataset) -> np.ndarray:
        """How often each gene is in the cells, and one more (Laplace); 0 for special tokens."""
        return (np.bincount(cells.ids, minlength=self.vocabulary.n_tokens) + 1) * self._is_gene

    @cached_property
    def _is_gene(self) -> np.ndarray:
        """Whether a token is a gene, (n_tokens,) bool."""
        return np.isin(np.arange(self.vocabulary.n_tokens), self.vocabulary.tokens)


def unigram_loss(frequencies: np.ndarray, cells: TokenDataset) -> float:
    """Mean loss of predicting by frequency alone, without looking at the cell: what a model must beat.

    Parameters
    ----------
    frequencies
        Of each class, (n_classes,), see :meth:`Objective.frequencies`.
    cells
        Cells of which something is hidden.
    """
    labels = np.concatenate([cells[i]["token_labels"] for i in range(len(cells))])
    return float(-np.log(frequencies[labels[labels != IGNORED]] / frequencies.sum()).mean())
