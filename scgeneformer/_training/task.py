"""What a training is about: classes of cells, or of genes within cells; masked genes are in `masked_genes.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from sklearn.metrics import f1_score

from scgeneformer._engine.class_head import ClassHead
from scgeneformer._engine.classification import classify_cells, classify_tokens
from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.pooling import get_pooling
from scgeneformer._training.dataset import IGNORED
from scgeneformer._training.network import loss_of, read_targets

if TYPE_CHECKING:
    from torch import nn
    from transformers import BertModel

    from scgeneformer._engine.packing import Packed
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network
    from scgeneformer._training.recipe import Recipe


class Task(Protocol):
    """What a training is about."""

    @property
    def sizes(self) -> list[int]:
        """Classes of each thing that is told."""

    def head(self, bert: BertModel, recipe: Recipe, seed: int) -> nn.Module:
        """The head before training, which gives logits (m, n_classes) of rows (m, d)."""

    def read(self, states: torch.Tensor, packed: Packed, targets: torch.Tensor | None) -> torch.Tensor:
        """Rows that the head reads, (m, d)."""

    def measure(self, network: Network, cells: TokenDataset) -> dict[str, float]:
        """Loss, accuracy and what else there is over a data set, every label counted once, without dropout."""


class ClassTask(ABC):
    """What the classes of cells and those of genes have in common."""

    sizes: list[int]

    def head(self, bert: BertModel, recipe: Recipe, seed: int) -> ClassHead:
        """A :class:`ClassHead` of random weights."""
        config = bert.config
        head = ClassHead(config.hidden_size, sum(self.sizes), recipe.head, config.hidden_dropout_prob)
        return head.initialise(config.initializer_range, seed)

    @abstractmethod
    def predict(self, network: Network, cells: TokenDataset) -> tuple[np.ndarray, np.ndarray]:
        """Logits (m, n_classes) float32 and labels (m, n_tasks) of a data set."""

    def measure(self, network: Network, cells: TokenDataset) -> dict[str, float]:
        """Loss, accuracy and macro F1."""
        return _measures(*self.predict(network, cells), self.sizes)


@dataclass(frozen=True)
class CellTask(ClassTask):
    """Classes of cells: the head reads one pooled vector per cell.

    Parameters
    ----------
    vocabulary
        Tells the pooling where the special tokens are.
    pooling
        Name of a function of `pooling.POOLINGS`.
    sizes
        Classes of each thing that is told of a cell.
    """

    vocabulary: Vocabulary
    pooling: str
    sizes: list[int]

    def read(self, states: torch.Tensor, packed: Packed, targets: torch.Tensor | None) -> torch.Tensor:
        """One vector per cell, (n_cells, d)."""
        return get_pooling(self.pooling, self.vocabulary)(states, packed, self.vocabulary)

    def predict(self, network: Network, cells: TokenDataset) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n_cells, n_classes) float32 and labels (n_cells, n_tasks) of a data set."""
        network.eval()
        budget, pooling = choose_tokens_per_batch(network.bert, None), get_pooling(self.pooling, self.vocabulary)
        logits = classify_cells(
            cells.blocks(), len(cells), [network.bert], network.head, self.vocabulary, pooling, budget
        )
        return logits, cells.labels


@dataclass(frozen=True)
class GeneTask(ClassTask):
    """Classes of genes: the head reads the state of a gene in every cell it is in, `BertForTokenClassification`.

    Parameters
    ----------
    n_classes
        Number of classes.
    """

    n_classes: int

    @property
    def sizes(self) -> list[int]:  # type: ignore[override]
        """Classes of the one thing that is told of a gene."""
        return [self.n_classes]

    def read(self, states: torch.Tensor, packed: Packed, targets: torch.Tensor | None) -> torch.Tensor:
        """The states of the genes that have a label, (m, d)."""
        return read_targets(states, packed, targets)

    def predict(self, network: Network, cells: TokenDataset) -> tuple[np.ndarray, np.ndarray]:
        """Logits (m, n_classes) float32 and labels (m, 1) of every gene with a label in every cell."""
        network.eval()
        logits = classify_tokens(
            cells.blocks(),
            [network.bert],
            network.head,
            cells.labels != IGNORED,
            cells.label_offsets,
            choose_tokens_per_batch(network.bert, None),
        )
        return logits, cells.truth


def _measures(logits: np.ndarray, labels: np.ndarray, sizes: list[int]) -> dict[str, float]:
    loss = float(loss_of(torch.from_numpy(logits), torch.from_numpy(labels), sizes))
    right = counted = 0
    f1 = []
    for truth, part in zip(labels.T, np.split(logits, np.cumsum(sizes)[:-1], axis=1), strict=True):
        known = truth != IGNORED
        told, truth = part[known].argmax(axis=1), truth[known]
        right += int((told == truth).sum())
        counted += len(truth)
        if len(truth):
            f1.append(float(f1_score(truth, told, average="macro")))
    return {"loss": loss, "accuracy": right / max(counted, 1), "macro_f1": float(np.mean(f1)) if f1 else 0.0}
