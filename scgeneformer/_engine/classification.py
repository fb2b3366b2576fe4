"""Logits of a trained head: of every cell, or summed over cells for every gene."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine.run import run
from scgeneformer._engine.to_host import ToHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import BertModel

    from scgeneformer._engine.class_head import ClassHead
    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.pooling import Pooling
    from scgeneformer._engine.run import Consumer
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary


def classify_cells(
    blocks: Iterable[tuple[int, Tokens]],
    n_cells: int,
    berts: list[BertModel],
    head: ClassHead,
    vocabulary: Vocabulary,
    pooling: Pooling,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda n: None,
) -> np.ndarray:
    """Logits of every cell.

    Parameters
    ----------
    blocks, berts, tokens_per_batch, advance
        As in :func:`run.run`.
    n_cells
        Number of cells in all blocks.
    head
        The head; read on the device of each encoder.
    vocabulary, pooling
        How the tokens of a cell become one vector, a function of `pooling.POOLINGS`.

    Returns
    -------
    (n_cells, n_classes) float32, NaN for cells without tokens.
    """
    logits = np.full((n_cells, head.n_classes), np.nan, dtype=np.float32)
    layer = berts[0].config.num_hidden_layers
    consumers: list[list[Consumer]] = [
        [CellLogits(logits, head_on(head, bert), layer, vocabulary, pooling)] for bert in berts
    ]
    run(blocks, berts, [layer], tokens_per_batch, consumers, advance)
    return logits


def head_on(head: ClassHead, bert: BertModel) -> ClassHead:
    """The head on the device of `bert`, computing in float32, without dropout."""
    return copy.deepcopy(head).to(device=bert.device, dtype=torch.float32).eval()


def softmax(logits: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Probabilities of each task, (n, n_classes of the task) float32, from the logits of all tasks side by side."""
    found = []
    for part in np.split(logits.astype(np.float64), np.cumsum(sizes)[:-1], axis=1):
        powers = np.exp(part - part.max(axis=1, keepdims=True, initial=-np.inf))
        found.append((powers / powers.sum(axis=1, keepdims=True)).astype(np.float32))
    return found


class CellLogits(ToHost):
    """Consumer that pools each cell and puts the logits of its vector into an array on the host.

    Parameters
    ----------
    found
        (n_cells, n_classes) float32, filled in place.
    head
        The head, on the device.
    layer
        Hidden layer that is pooled.
    vocabulary, pooling
        As in :func:`classify_cells`.
    """

    def __init__(
        self, found: np.ndarray, head: ClassHead, layer: int, vocabulary: Vocabulary, pooling: Pooling
    ) -> None:
        super().__init__()
        self.found, self.head, self.layer, self.vocabulary, self.pooling = found, head, layer, vocabulary, pooling

    def select(self, batch: Batch) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """Pool the cells and apply the head."""
        rows = self.pooling(batch.states[self.layer], batch.packed, self.vocabulary)
        return batch.cells, {"logits": self.head(rows)}

    def store(self, place: np.ndarray, rows: dict[str, np.ndarray]) -> None:
        """Put the logits of the cells in their places."""
        self.found[place] = rows["logits"]
