"""Training data: the tokens of cells, labels of cells or genes, and how some cells become one packed batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from scgeneformer._engine.packing import pack
from scgeneformer._engine.tokens import Tokens, concatenate, offsets_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

IGNORED = -100  # a label that counts in no loss, as everywhere in torch


@dataclass(frozen=True, eq=False)
class TokenDataset(Dataset):
    """Cells with labels, in memory, their tokens in the smallest type that holds them.

    Parameters
    ----------
    ids
        Tokens of all cells, laid end to end, (total,).
    offsets
        Where each cell starts, and the end, (n_cells + 1,) int64.
    labels
        Labels of cells, (n_cells, n_tasks) int64, or of genes in whichever cell they are, by token, (n_tokens,) int64;
        -100 for none.
    positions
        Position of each token, (total,); None: 0, 1, ... in each cell.
    """

    ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    positions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, cell: int) -> dict[str, Any]:
        places = slice(self.offsets[cell], self.offsets[cell + 1])
        tokens = self.ids[places]
        labels = {"labels": self.labels[cell]} if self.of_cells else {"token_labels": self.labels[tokens]}
        return {"tokens": tokens, "positions": None if self.positions is None else self.positions[places], **labels}

    @property
    def of_cells(self) -> bool:
        """Whether the labels are those of cells."""
        return self.labels.ndim == 2

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each cell, (n_cells,) int64."""
        return np.diff(self.offsets)

    @property
    def tokens(self) -> Tokens:
        """The tokens of all cells."""
        return Tokens(self.ids.astype(np.int32), self.offsets, self.positions)

    @property
    def units(self) -> np.ndarray:
        """What each prediction is about, (m,) int: the number of the cell, or the token of every gene with a label."""
        return np.arange(len(self)) if self.of_cells else self.ids[self.labels[self.ids] != IGNORED]

    @property
    def truth(self) -> np.ndarray:
        """The label of each prediction, (m, n_tasks) int64."""
        return self.labels if self.of_cells else self.labels[self.units][:, None]

    @property
    def label_offsets(self) -> np.ndarray:
        """Where the genes with a label of each cell start among all such genes, and the end, (n_cells + 1,) int64."""
        return offsets_of(self.labels[self.ids] != IGNORED)[self.offsets]

    def checksum(self, *more: np.ndarray) -> str:
        """SHA-256 of all that a training sees of the cells, and of `more` int64 arrays."""
        positions = [] if self.positions is None else [self.positions.astype(np.int32)]
        digest = hashlib.sha256()
        for array in (self.offsets, self.ids.astype(np.int32), self.labels, *positions, *more):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def begin_epoch(self, epoch: int) -> None:
        """Called before each pass over the cells; nothing here depends on it."""

    def take(self, cells: np.ndarray) -> TokenDataset:
        """The given cells in the given order, as a copy."""
        some = Tokens(self.ids, self.offsets, self.positions).take(cells)
        labels = self.labels[cells] if self.of_cells else self.labels
        return TokenDataset(some.ids, some.offsets, labels, some.positions)

    def part(self, chosen: np.ndarray) -> TokenDataset:
        """Some of the cells; or all cells that contain some of the genes with a label, and the labels of these alone.

        Parameters
        ----------
        chosen
            Which cells, (n_cells,) bool, or which genes, by token, (n_tokens,) bool.
        """
        if self.of_cells:
            return self.take(np.flatnonzero(chosen))
        fewer = replace(self, labels=np.where(chosen, self.labels, IGNORED))
        return fewer.take(np.flatnonzero(np.diff(fewer.label_offsets)))

    def blocks(self, size: int = 2048) -> Iterator[tuple[int, Tokens]]:
        """Yield (first cell, tokens) of consecutive cells."""
        whole = Tokens(self.ids, self.offsets, self.positions)
        for start in range(0, len(self), size):
            some = whole.slice(start, min(start + size, len(self)))
            yield start, replace(some, ids=some.ids.astype(np.int32))


def joined(parts: list[TokenDataset]) -> TokenDataset:
    """The cells of several data sets with labels of cells, one behind the other."""
    tokens = concatenate([Tokens(part.ids, part.offsets, part.positions) for part in parts], parts[0].ids.dtype.type)
    return TokenDataset(tokens.ids, tokens.offsets, np.concatenate([part.labels for part in parts]), tokens.positions)


def containing(blocks: Iterable[tuple[int, Tokens]], wanted: np.ndarray, n_cells: int) -> np.ndarray:
    """Which cells contain some of the genes wanted, (n_cells,) bool.

    Parameters
    ----------
    blocks
        (row of the first cell, tokens) of consecutive cells.
    wanted
        Whether a token is one of these genes, (n_tokens,) bool.
    n_cells
        Number of cells in all blocks.
    """
    found = np.zeros(n_cells, dtype=bool)
    for first, tokens in blocks:
        found[first : first + len(tokens)] = np.diff(offsets_of(wanted[tokens.ids])[tokens.offsets]) > 0
    return found


def gather(blocks: Iterable[tuple[int, Tokens]], chosen: np.ndarray, n_tokens: int) -> Tokens:
    """Tokens of the chosen cells, read block by block.

    Parameters
    ----------
    blocks
        (row of the first cell, tokens) of consecutive cells.
    chosen
        Which cells to keep, (n_obs,) bool.
    n_tokens
        Tokens of the vocabulary, which decides the type.

    Returns
    -------
    The tokens, their ids uint16 or int32.
    """
    dtype = np.uint16 if n_tokens <= np.iinfo(np.uint16).max + 1 else np.int32
    parts = []
    for first, tokens in blocks:
        some = tokens.take(np.flatnonzero(chosen[first : first + len(tokens)]))
        parts.append(replace(some, ids=some.ids.astype(dtype)))
    return concatenate(parts, dtype)


def collate(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Pack some cells of a :class:`TokenDataset` into one batch without padding: the arguments of `Network.forward`.

    Of the labels of tokens only the places that have one are kept: "targets" names them.
    """
    tokens = Tokens.from_lists(cell["tokens"] for cell in cells)
    if cells[0]["positions"] is not None:
        tokens = replace(tokens, positions=np.concatenate([cell["positions"] for cell in cells]))
    packed = pack(tokens)
    batch = {"ids": packed.ids, "positions": packed.positions, "offsets": packed.offsets, "lengths": packed.lengths}
    if "labels" in cells[0]:
        return batch | {"labels": torch.from_numpy(np.stack([cell["labels"] for cell in cells]))}
    labels = torch.from_numpy(np.concatenate([cell["token_labels"] for cell in cells]))
    targets = torch.nonzero(labels != IGNORED)[:, 0]
    return batch | {"targets": targets, "labels": labels[targets, None]}
