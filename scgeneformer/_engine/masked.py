"""What the model says about masked genes: their probabilities, given the rest of the cell.

Genes of a cell are replaced in place by ``<mask>``, the masked copy runs through the whole encoder, and the head turns
the states at the masked positions, and only those, into logits over the vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scgeneformer._engine.packing import to_device
from scgeneformer._engine.run import run
from scgeneformer._engine.tokens import Tokens, offsets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from transformers import BertModel

    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.masked_head import MaskedHead

LOGITS_AT_ONCE = 2**24  # numbers, 64 MB


class Masked(NamedTuple):
    """A masked gene of every row: the cell, the position among all its tokens, and the token that was there."""

    cell: np.ndarray
    position: np.ndarray
    token: np.ndarray


class MaskedCells:
    """Masked copies of the cells of all blocks.

    Copy number p of cell i passes for row p * n_cells + i; rows that have nothing masked are empty and are not run.

    Parameters
    ----------
    blocks
        (row of the first cell, tokens) of consecutive cells.
    n_cells
        Number of cells in all blocks.
    choose
        Gives, for the tokens of a block, which of them to mask in each copy, (total,) bool.
    mask_token
        Token to put there.
    """

    def __init__(
        self,
        blocks: Iterable[tuple[int, Tokens]],
        n_cells: int,
        choose: Callable[[Tokens], Iterable[np.ndarray]],
        mask_token: int,
    ) -> None:
        self.blocks, self.n_cells, self.choose, self.mask_token = blocks, n_cells, choose, mask_token
        self.hidden: dict[int, np.ndarray] = {}  # row -> tokens under the masks, until the row was run

    def __iter__(self) -> Iterator[tuple[int, Tokens]]:
        for first, tokens in self.blocks:
            for copy, chosen in enumerate(self.choose(tokens)):
                start = copy * self.n_cells + first
                n_masked = np.diff(offsets_of(chosen)[tokens.offsets])
                rows = np.flatnonzero(n_masked)
                parts = np.split(tokens.ids[chosen], np.cumsum(n_masked[rows])[:-1])
                self.hidden.update(zip((start + rows).tolist(), parts, strict=True) if len(rows) else ())
                ids = np.where(chosen, self.mask_token, tokens.ids).astype(np.int32)
                lengths = np.where(n_masked > 0, tokens.lengths, 0)
                yield start, Tokens(ids[np.repeat(n_masked > 0, tokens.lengths)], offsets_of(lengths))

    def reveal(self, batch: Batch) -> tuple[np.ndarray, Masked]:
        """Places of the masks in a batch, (m,), and what is under them; can be asked for once."""
        parts = [self.hidden.pop(row) for row in batch.cells.tolist()]
        places = np.flatnonzero(batch.tokens.ids == self.mask_token)
        counts = [len(part) for part in parts]
        starts = np.repeat(batch.tokens.offsets[:-1], counts)
        return places, Masked(np.repeat(batch.cells % self.n_cells, counts), places - starts, np.concatenate(parts))


class _Reader(ABC):
    """Consumer that hands the logits at the masks, a few at a time, to :meth:`take`."""

    def __init__(self, bert: BertModel, head: MaskedHead, cells: MaskedCells) -> None:
        self.layer, self.device = bert.config.num_hidden_layers, bert.device
        self.logits, self.cells = head.on(bert), cells
        self.at_once = max(1, LOGITS_AT_ONCE // bert.config.vocab_size)

    def add(self, batch: Batch) -> None:
        """Read the masks of the batch."""
        places, masked = self.cells.reveal(batch)
        for start in range(0, len(places), self.at_once):
            some = slice(start, start + self.at_once)
            logits = self.logits(batch.states[self.layer][to_device(places[some], self.device)])
            self.take(logits, Masked(*(part[some] for part in masked)))

    @abstractmethod
    def take(self, logits: torch.Tensor, masked: Masked) -> None:
        """Keep what is needed of the logits, (m, n_tokens) float32."""


class LikelihoodReader(_Reader):
    """Sums the log-probability of the genes under the masks over each cell."""

    def __init__(self, bert: BertModel, head: MaskedHead, cells: MaskedCells) -> None:
        super().__init__(bert, head, cells)
        self.sums = torch.zeros(cells.n_cells, dtype=torch.float64, device=self.device)
        self.n_masked = np.zeros(cells.n_cells, dtype=np.int64)

    def take(self, logits: torch.Tensor, masked: Masked) -> None:
        """Add to the sums."""
        found = log_probability(logits, to_device(masked.token.astype(np.int64), self.device))
        self.sums.index_add_(0, to_device(masked.cell, self.device), found.double())
        np.add.at(self.n_masked, masked.cell, 1)

    def finish(self) -> None:
        """Copy the sums to the host."""
        self.result = self.sums.cpu().numpy()


class PredictionReader(_Reader):
    """Keeps, for every mask, the place of the true gene among all genes and the genes that are the most probable."""

    def __init__(self, bert: BertModel, head: MaskedHead, cells: MaskedCells, genes: np.ndarray, top_k: int) -> None:
        super().__init__(bert, head, cells)
        self.genes = to_device(genes.astype(np.int64), self.device)
        self.top_k = min(top_k, len(genes))
        self.waiting: list[tuple[Masked, list[torch.Tensor]]] = []

    def take(self, logits: torch.Tensor, masked: Masked) -> None:
        """Keep ranks, probabilities and the first genes."""
        token = to_device(masked.token.astype(np.int64), self.device)
        of_genes = logits[:, self.genes]  # (m, n_genes)
        true = logits.gather(1, token[:, None])
        ahead = (of_genes > true) | ((of_genes == true) & (self.genes < token[:, None]))
        top, which = of_genes.topk(self.top_k, dim=1)
        total = logits.logsumexp(dim=1, keepdim=True)
        kept = [ahead.sum(dim=1) + 1, (true - total).exp()[:, 0], self.genes[which], (top - total).exp()]
        self.waiting.append((masked, kept))

    def finish(self) -> None:
        """Copy all to the host."""
        self.result = [(masked, [tensor.cpu().numpy() for tensor in kept]) for masked, kept in self.waiting]


def log_probability(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Log-probability of one token of each row, (m,)."""
    return logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(dim=1)


def masked_log_likelihood(
    cells: MaskedCells,
    berts: list[BertModel],
    head: MaskedHead,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda n: None,
) -> np.ndarray:
    """Mean log-probability of the masked genes of each cell, (n_cells,) float64, NaN where none was masked."""
    readers = [LikelihoodReader(bert, head, cells) for bert in berts]
    run(cells, berts, [berts[0].config.num_hidden_layers], tokens_per_batch, [[reader] for reader in readers], advance)
    n_masked = sum(reader.n_masked for reader in readers)
    sums = sum(reader.result for reader in readers)
    return np.where(n_masked > 0, sums / np.maximum(n_masked, 1), np.nan)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is predicted at every mask, ordered by cell and position.

    Parameters
    ----------
    masked
        The masks, (m,) each.
    rank, probability
        Of the gene under the mask, (m,); 1 is the most probable gene.
    top_token, top_probability
        The most probable genes, (m, k).
    """

    masked: Masked
    rank: np.ndarray
    probability: np.ndarray
    top_token: np.ndarray
    top_probability: np.ndarray


def predict_masked(
    cells: MaskedCells,
    berts: list[BertModel],
    head: MaskedHead,
    genes: np.ndarray,
    top_k: int,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda n: None,
) -> Predictions:
    """Predict the genes under the masks; `genes` are the tokens of all genes, probabilities those among all tokens."""
    readers = [PredictionReader(bert, head, cells, genes, top_k) for bert in berts]
    run(cells, berts, [berts[0].config.num_hidden_layers], tokens_per_batch, [[reader] for reader in readers], advance)
    parts = [part for reader in readers for part in reader.result]
    if not parts:
        none, table = np.empty(0, np.int64), np.empty((0, readers[0].top_k))
        return Predictions(Masked(none, none, none), none, none.astype(np.float32), table.astype(np.int64), table)
    masked = Masked(*(np.concatenate(column) for column in zip(*(part[0] for part in parts), strict=True)))
    columns = [np.concatenate(column) for column in zip(*(part[1] for part in parts), strict=True)]
    order = np.lexsort((masked.position, masked.cell))
    return Predictions(Masked(*(column[order] for column in masked)), *(column[order] for column in columns))
