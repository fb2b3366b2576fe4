"""Token sequences of many cells, ragged and flat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scgeneformer._engine.vocabulary import Vocabulary

LAST = -2  # slot of a token behind which no token of the cell has a slot


@dataclass(frozen=True, eq=False)
class Tokens:
    """Sequences laid end to end: cell `i` is ``ids[offsets[i]:offsets[i + 1]]``.

    Parameters
    ----------
    ids
        Tokens of all cells, (total,) int32.
    offsets
        Where each cell starts, and the end, (n_cells + 1,) int64.
    positions
        Position the model is told for each token, (total,) whole numbers of any type; None: 0, 1, ... in each cell.
    """

    ids: np.ndarray
    offsets: np.ndarray
    positions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, cell: int) -> np.ndarray:
        return self.ids[self.offsets[cell] : self.offsets[cell + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each cell, (n_cells,) int64."""
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> Tokens:
        """Return the cells `start` to `stop` as a view."""
        offsets = self.offsets[start : stop + 1]
        some = slice(offsets[0], offsets[-1])
        positions = None if self.positions is None else self.positions[some]
        return Tokens(self.ids[some], offsets - offsets[0], positions)

    def take(self, cells: np.ndarray) -> Tokens:
        """Return the given cells in the given order, as a copy."""
        lengths = self.lengths[cells]
        offsets = offsets_of(lengths)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        places = np.repeat(self.offsets[:-1][cells], lengths) + within
        return Tokens(self.ids[places], offsets, None if self.positions is None else self.positions[places])

    def slots(self, slot_of_token: np.ndarray) -> np.ndarray:
        """Slot of each token, (total,) int64; -1 for none, and from a token of the slot LAST to the end of its cell.

        Parameters
        ----------
        slot_of_token
            Slot by token, (n_tokens,) int64.
        """
        slots: np.ndarray = slot_of_token[self.ids]
        if slot_of_token.min(initial=0) == LAST:
            n_ends = offsets_of(slots == LAST)
            slots[n_ends[1:] > np.repeat(n_ends[self.offsets[:-1]], self.lengths)] = -1
        return slots

    def to_padded(self, width: int, dtype: type = np.uint16) -> np.ndarray:
        """Return the ids as a (n_cells, width) matrix, filled with 0 behind each cell."""
        return self._padded(self.ids, width, dtype)

    def positions_to_padded(self, width: int, dtype: type | np.dtype = np.uint8) -> np.ndarray:
        """Return the positions, which must be there, likewise."""
        assert self.positions is not None
        return self._padded(self.positions, width, dtype)

    def _padded(self, values: np.ndarray, width: int, dtype: type | np.dtype) -> np.ndarray:
        padded: np.ndarray = np.zeros((len(self), width), dtype=dtype)
        padded[np.arange(width) < self.lengths[:, None]] = values
        return padded

    @classmethod
    def from_padded(cls, padded: np.ndarray, positions: np.ndarray | None = None) -> Tokens:
        """Undo :meth:`to_padded` and, where a matrix of positions is given, :meth:`positions_to_padded`."""
        kept = padded != 0
        offsets = offsets_of(kept.sum(axis=1))
        return cls(padded[kept].astype(np.int32), offsets, None if positions is None else positions[kept])

    @classmethod
    def from_lists(cls, sequences: Iterable[Iterable[int]]) -> Tokens:
        """Build from one sequence of tokens per cell."""
        arrays = [np.asarray(list(sequence), dtype=np.int32) for sequence in sequences]
        ids = np.concatenate([np.empty(0, np.int32), *arrays])
        return cls(ids, offsets_of(np.array([len(a) for a in arrays], dtype=np.int64)))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Cumulative sum with a leading zero, (n + 1,) int64."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def around_genes(n_genes: np.ndarray, vocabulary: Vocabulary) -> Tokens:
    """Sequences that hold the special tokens around `n_genes` genes of each cell, which are still to be put in.

    What a cell has of a context is unknown (``<mask>``) as yet. Cells without a gene are empty.
    """
    lead, trail, filled = vocabulary.n_lead, vocabulary.n_trail, n_genes > 0
    offsets = offsets_of(np.where(filled, n_genes + lead + trail, 0))
    starts, ends = offsets[:-1][filled], offsets[1:][filled]
    ids = np.empty(offsets[-1], dtype=np.int32)
    if vocabulary.cls_token is not None:
        ids[starts] = vocabulary.cls_token
    for place in range(lead - len(vocabulary.encoding.context), lead):
        ids[starts + place] = vocabulary.special["<mask>"]
    if trail:
        ids[ends - 1] = vocabulary.eos_token
    return Tokens(ids, offsets)


def only_cells(blocks: Iterable[tuple[int, Tokens]], cells: np.ndarray) -> Iterator[tuple[int, Tokens]]:
    """Yield the same blocks, in which cells that were not chosen, (n_obs,) bool, have no tokens and so are not run."""
    for first, tokens in blocks:
        chosen = cells[first : first + len(tokens)]
        if not chosen.all():
            lengths = tokens.lengths
            kept = np.repeat(chosen, lengths)
            positions = None if tokens.positions is None else tokens.positions[kept]
            tokens = Tokens(tokens.ids[kept], offsets_of(lengths * chosen), positions)
        yield first, tokens


def concatenate(parts: list[Tokens], dtype: type = np.int32) -> Tokens:
    """Join the cells of several blocks in order; `dtype` is that of their ids."""
    ids = np.concatenate([np.empty(0, dtype), *(part.ids for part in parts)])
    lengths = np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)])
    positions = [part.positions for part in parts if part.positions is not None]
    return Tokens(ids, offsets_of(lengths), np.concatenate(positions) if positions else None)
