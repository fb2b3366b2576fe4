"""Sequences of tokens that others made: what is wrong with them, and how they become those of a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from scgeneformer._engine.tokens import Tokens, offsets_of
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from scgeneformer._engine.vocabulary import Vocabulary

CLS, EOS = 2, 3  # <cls> and <eos> of the published models that have them


def ranking_of(vocabulary: Vocabulary) -> str:
    """Checksum of what decides the order of a cell's genes, not how many there are and what stands around them."""
    return replace(vocabulary, special={}, input_size=0).checksum


def genes_of(tokens: Tokens, vocabulary: Vocabulary) -> Tokens:
    """The genes of each cell, in order, without special tokens."""
    is_gene = np.isin(tokens.ids, vocabulary.tokens)
    return Tokens(tokens.ids[is_gene], offsets_of(is_gene)[tokens.offsets])


def as_sequences(genes: Tokens, vocabulary: Vocabulary) -> Tokens:
    """What a model reads of cells whose genes are in order of rank.

    Parameters
    ----------
    genes
        The genes of each cell; those beyond the input size are cut off.
    vocabulary
        Gives the special tokens around them. Cells without a gene stay empty.
    """
    lead, trail = vocabulary.n_lead, vocabulary.n_trail
    n_genes = genes.lengths
    kept = np.minimum(n_genes, vocabulary.max_genes)
    offsets = offsets_of(np.where(kept > 0, kept + lead + trail, 0))
    rank = np.arange(len(genes.ids)) - np.repeat(genes.offsets[:-1], n_genes)
    stays = rank < vocabulary.max_genes
    ids = np.empty(offsets[-1], dtype=np.int32)
    ids[(rank + np.repeat(offsets[:-1] + lead, n_genes))[stays]] = genes.ids[stays]
    filled = kept > 0
    if lead:
        ids[offsets[:-1][filled]] = vocabulary.cls_token
    if trail:
        ids[offsets[1:][filled] - 1] = vocabulary.eos_token
    return Tokens(ids, offsets)


def repeated(tokens: Tokens) -> np.ndarray:
    """Which tokens their cell holds before, at a higher rank, (total,) bool; ids must not be negative."""
    return _repeated(tokens.ids, tokens.offsets, int(tokens.ids.max(initial=0)) + 1)


@nb.njit(cache=True, nogil=True)
def _repeated(ids, offsets, n_tokens):  # pragma: no cover  compiled
    last_cell = np.full(n_tokens, -1, np.int64)
    found = np.zeros(len(ids), np.bool_)
    for cell in range(len(offsets) - 1):
        for i in range(offsets[cell], offsets[cell + 1]):
            found[i] = last_cell[ids[i]] == cell
            last_cell[ids[i]] = cell
    return found


def check_sequences(tokens: Tokens, vocabulary: Vocabulary, first: int = 0) -> None:
    """Refuse tokens that are not those of a model: unknown ones, special ones out of place.

    Parameters
    ----------
    tokens
        The cells, special tokens included; empty cells are allowed.
    vocabulary
        Of the model.
    first
        Number of the first cell, for the error message.

    Raises
    ------
    DataError
        If they are not; says which cell, and what it may be.
    """
    starts, stops = tokens.offsets[:-1], tokens.offsets[1:]
    filled = np.flatnonzero(stops > starts)
    starts, stops = starts[filled], stops[filled]

    def cell_at(place: int) -> int:
        return first + int(np.searchsorted(tokens.offsets, place, side="right")) - 1

    known = np.zeros(vocabulary.n_tokens, dtype=bool)
    known[vocabulary.tokens] = True
    known[list(vocabulary.special.values())] = True
    inside = (tokens.ids >= 0) & (tokens.ids < vocabulary.n_tokens)
    wrong = np.flatnonzero(~(inside & known[np.where(inside, tokens.ids, 0)]))
    if len(wrong):
        raise DataError(
            f"Cell {cell_at(wrong[0])} holds the token {tokens.ids[wrong[0]]}, which the model does not know (it has "
            f"{vocabulary.n_tokens:,}): these are the tokens of another model. Name that one: model='...'."
        )
    _check_ends(tokens, vocabulary, first + filled, starts, stops)
    names = {token: name for name, token in vocabulary.special.items()}
    special = np.isin(tokens.ids, list(names))
    special[starts[: len(starts) * vocabulary.n_lead]] = False
    special[stops[: len(stops) * vocabulary.n_trail] - 1] = False
    if special.any():
        place = int(np.flatnonzero(special)[0])
        name, cell = names[int(tokens.ids[place])], cell_at(place)
        rank = place - int(tokens.offsets[cell - first])
        remedy = "Write the cells without padding." if name == "<pad>" else "Are these the tokens of another model?"
        raise DataError(
            f"Cell {cell} holds the special token {name} at position {rank}, where a gene belongs. {remedy}"
        )


def _check_ends(
    tokens: Tokens, vocabulary: Vocabulary, cells: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> None:
    """Whether the cells begin and end as the model asks for."""
    begin, end = tokens.ids[starts], tokens.ids[stops - 1]
    for name, verb, there in (("<cls>", "begins", begin), ("<eos>", "ends", end)):
        expected = vocabulary.special.get(name)
        if expected is not None and (wrong := np.flatnonzero(there != expected)).size:
            raise DataError(
                f"Cell {cells[wrong[0]]} {verb} with the token {there[wrong[0]]}, where the model expects {name} "
                f"({expected}): these are the tokens of a model without {name}, such as V1. Name that one: model='...'."
            )
    without = vocabulary.cls_token is None and vocabulary.eos_token is None
    if without and len(cells) > 1 and (begin == CLS).all() and (end == EOS).all():
        raise DataError(
            f"All cells begin with the token {CLS} and end with {EOS}, as those of models with <cls> and <eos> (V2), "
            "and the model has neither. Name that one: model='...'."
        )
