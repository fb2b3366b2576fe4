"""What a training is about: classes of cells, or of genes within cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scgeneformer._engine.classification import classify_cells
from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.pooling import get_pooling

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
