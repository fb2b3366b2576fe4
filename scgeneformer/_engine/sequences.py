"""Sequences of tokens that others made: what is wrong with them, and how they become those of a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from scgeneformer._engine.tokens import Tokens, around_genes, offsets_of
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from scgeneformer._engine.vocabulary import Vocabulary

UNKNOWN, GENE, SPECIAL = 0, 1, 2
CLS, EOS = 2, 3  # <cls> and <eos> of the published models that have them


def ranking_of(vocabulary: Vocabulary) -> str:
    """Checksum of what decides the order of a cell's genes, not how many there are and what stands around them."""
    encoding = vocabulary.encoding
    bare = replace(encoding, context={}) if encoding.context else encoding  # type: ignore[type-var]
    return replace(vocabulary, special={}, input_size=0, encoding=bare).checksum


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
    n_genes = genes.lengths
    tokens = around_genes(np.minimum(n_genes, vocabulary.max_genes), vocabulary)
    rank = np.arange(len(genes.ids)) - np.repeat(genes.offsets[:-1], n_genes)
    stays = rank < vocabulary.max_genes
    places = rank + np.repeat(tokens.offsets[:-1] + vocabulary.n_lead, n_genes)
    tokens.ids[places[stays]] = genes.ids[stays]
    return tokens


def check_sequences(tokens: Tokens, vocabulary: Vocabulary, cells: np.ndarray) -> np.ndarray:
    """Refuse tokens that are not those of a model: unknown ones, special ones out of place.

    Parameters
    ----------
    tokens
        Some cells, special tokens included; empty cells are allowed.
    vocabulary
        Of the model.
    cells
        Their numbers, for the error message, (n_cells,).

    Returns
    -------
    Which tokens their cell holds before, at a higher rank, (total,) bool.

    Raises
    ------
    DataError
        If they are not; says which cell, and what it may be.
    """
    kind = np.full(vocabulary.n_tokens, UNKNOWN, dtype=np.uint8)
    kind[vocabulary.tokens] = GENE
    kind[list(vocabulary.special.values())] = SPECIAL
    lead, trail = vocabulary.n_lead, vocabulary.n_trail
    unknown, misplaced, twice = _survey(tokens.ids, tokens.offsets, kind, lead, trail)
    if unknown >= 0:
        cell, _ = place_in_cell(tokens, unknown)
        raise DataError(
            f"Cell {cells[cell]} holds the token {tokens.ids[unknown]}, which the model does not know (it has "
            f"{vocabulary.n_tokens:,}): these are the tokens of another model. Name that one: model='...'."
        )
    _check_ends(tokens, vocabulary, cells)
    if misplaced >= 0:
        (cell, position), token = place_in_cell(tokens, misplaced), int(tokens.ids[misplaced])
        name = next(name for name, special in vocabulary.special.items() if special == token)
        remedy = "Write the cells without padding." if name == "<pad>" else "Are these the tokens of another model?"
        raise DataError(
            f"Cell {cells[cell]} holds {name} ({token}) at position {position}, in place of a gene. {remedy}"
        )
    return twice


@nb.njit(cache=True, nogil=True)
def _survey(ids, offsets, kind, lead, trail):  # pragma: no cover  compiled
    """Place of the first unknown token and of the first special one between the ends, -1 for none; repeated tokens."""
    misplaced = -1
    last_cell = np.full(len(kind), -1, np.int64)
    twice = np.zeros(len(ids), np.bool_)
    for cell in range(len(offsets) - 1):
        for i in range(offsets[cell], offsets[cell + 1]):
            token = ids[i]
            if token < 0 or token >= len(kind) or kind[token] == UNKNOWN:
                return i, misplaced, twice
            twice[i] = last_cell[token] == cell
            last_cell[token] = cell
            inside = offsets[cell] + lead <= i < offsets[cell + 1] - trail
            if kind[token] == SPECIAL and inside and misplaced < 0:
                misplaced = i
    return -1, misplaced, twice


def place_in_cell(tokens: Tokens, place: int) -> tuple[int, int]:
    """Cell and position in it of the token at a place of all."""
    cell = int(np.searchsorted(tokens.offsets, place, side="right")) - 1
    return cell, place - int(tokens.offsets[cell])


def _check_ends(tokens: Tokens, vocabulary: Vocabulary, cells: np.ndarray) -> None:
    """Whether the cells begin and end as the model asks for."""
    filled = np.flatnonzero(tokens.lengths)
    begin, end = tokens.ids[tokens.offsets[filled]], tokens.ids[tokens.offsets[filled + 1] - 1]
    for name, verb, there in (("<cls>", "begins", begin), ("<eos>", "ends", end)):
        expected = vocabulary.special.get(name)
        if expected is not None and (wrong := np.flatnonzero(there != expected)).size:
            raise DataError(
                f"Cell {cells[filled[wrong[0]]]} {verb} with the token {there[wrong[0]]}, where the model expects "
                f"{name} ({expected}): these are the tokens of a model without {name}, such as V1. Name that one: "
                "model='...'."
            )
    without = vocabulary.cls_token is None and vocabulary.eos_token is None
    if without and len(filled) > 1 and (begin == CLS).all() and (end == EOS).all():
        raise DataError(
            f"All cells begin with the token {CLS} and end with {EOS}, as those of models with <cls> and <eos> (V2), "
            "and the model has neither. Name that one: model='...'."
        )
