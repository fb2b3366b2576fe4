"""What a trained head tells: of every cell, of some genes in every cell, or of every gene over all cells."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine.gene_sums import GeneSummer, GeneSums, add_up
from scgeneformer._engine.packing import to_device
from scgeneformer._engine.run import run
from scgeneformer._engine.to_host import ToHost
from scgeneformer._engine.tokens import offsets_of

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


def classify_tokens(
    blocks: Iterable[tuple[int, Tokens]],
    berts: list[BertModel],
    head: ClassHead,
    wanted: np.ndarray,
    starts: np.ndarray,
    tokens_per_batch: int,
) -> np.ndarray:
    """Logits of some genes in every cell that contains them.

    Parameters
    ----------
    blocks, berts, tokens_per_batch
        As in :func:`run.run`.
    head
        The head; read on the device of each encoder.
    wanted
        Whether a token is one of these genes, (n_tokens,) bool.
    starts
        Number of such genes in all cells before each cell, and in all, (n_cells + 1,) int64.

    Returns
    -------
    (starts[-1], n_classes) float32, cell by cell, the genes of a cell in the order of its tokens.
    """
    logits = np.empty((int(starts[-1]), head.n_classes), dtype=np.float32)
    layer = berts[0].config.num_hidden_layers
    consumers: list[list[Consumer]] = [
        [TokenLogits(logits, head_on(head, bert), layer, wanted, starts)] for bert in berts
    ]
    run(blocks, berts, [layer], tokens_per_batch, consumers)
    return logits


def class_sums(
    blocks: Iterable[tuple[int, Tokens]],
    berts: list[BertModel],
    head: ClassHead,
    tokens_per_batch: int,
    group_of_cell: np.ndarray,
    n_groups: int,
    slot_of_token: np.ndarray,
    n_slots: int,
    advance: Callable[[int], object] = lambda n: None,
) -> GeneSums:
    """Sum the class probabilities of every gene over the cells of each group.

    They are summed as contextual embeddings are by :func:`gene_sums.gene_sums`; the probabilities (total, n_classes)
    take the place of the hidden states (total, d).

    Parameters
    ----------
    blocks, berts, tokens_per_batch, advance
        As in :func:`run.run`.
    head
        The head; read on the device of each encoder.
    group_of_cell, n_groups, slot_of_token, n_slots
        As in :func:`gene_sums.gene_sums`.

    Returns
    -------
    The sums, those of the last hidden layer: of (n_groups, n_slots, n_classes).
    """
    layer, n_classes = berts[0].config.num_hidden_layers, head.n_classes
    workers = [
        GeneSummer(bert.device, n_classes, [layer], group_of_cell, n_groups, slot_of_token, n_slots) for bert in berts
    ]
    consumers: list[list[Consumer]] = [
        [TokenProbabilities(head_on(head, bert), layer, worker)] for bert, worker in zip(berts, workers, strict=True)
    ]
    run(blocks, berts, [layer], tokens_per_batch, consumers, advance)
    return add_up([worker.result for worker in workers])


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


class TokenLogits(ToHost):
    """Consumer that puts the logits of some genes of each cell into an array on the host.

    Parameters
    ----------
    found
        (m, n_classes) float32, filled in place.
    head
        The head, on the device.
    layer
        Hidden layer that it reads.
    wanted, starts
        As in :func:`classify_tokens`.
    """

    def __init__(self, found: np.ndarray, head: ClassHead, layer: int, wanted: np.ndarray, starts: np.ndarray) -> None:
        super().__init__()
        self.found, self.head, self.layer, self.wanted, self.starts = found, head, layer, wanted, starts

    def select(self, batch: Batch) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """Apply the head to the states of these genes."""
        kept = np.flatnonzero(self.wanted[batch.tokens.ids])
        states = batch.states[self.layer][to_device(kept, batch.packed.ids.device)]
        counts = self.starts[batch.cells + 1] - self.starts[batch.cells]
        before = np.repeat(self.starts[batch.cells] - offsets_of(counts)[:-1], counts)
        return before + np.arange(len(kept)), {"logits": self.head(states)}

    def store(self, place: np.ndarray, rows: dict[str, np.ndarray]) -> None:
        """Put the logits in their places."""
        self.found[place] = rows["logits"]


class TokenProbabilities:
    """Consumer that hands another the class probabilities of every token in place of its states.

    Parameters
    ----------
    head
        The head, on the device.
    layer
        Hidden layer that it reads.
    then
        The other consumer.
    """

    def __init__(self, head: ClassHead, layer: int, then: Consumer) -> None:
        self.head, self.layer, self.then = head, layer, then

    def add(self, batch: Batch) -> None:
        """Apply the head to all tokens of the batch."""
        probabilities = torch.softmax(self.head(batch.states[self.layer]).float(), dim=1)  # (total, n_classes)
        self.then.add(replace(batch, states={self.layer: probabilities}))

    def finish(self) -> None:
        """Let the other bring its result to the host."""
        self.then.finish()
