"""What a training is about: classes of cells, or of genes within cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scgeneformer._engine.classification import classify_cells, classify_tokens
from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.pooling import get_pooling
from scgeneformer._training.dataset import IGNORED
from scgeneformer._training.network import read_targets

if TYPE_CHECKING:
    import numpy as np
    import torch

    from scgeneformer._engine.packing import Packed
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network


@dataclass(frozen=True)
class CellTask:
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
class GeneTask:
    """Classes of genes: the head reads the state of a gene in every cell it is in, `BertForTokenClassification`.

    Parameters
    ----------
    n_classes
        Number of classes.
    """

    n_classes: int

    @property
    def sizes(self) -> list[int]:
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
