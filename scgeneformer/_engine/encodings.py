"""How a cell becomes a sequence of tokens: the encodings a vocabulary can ask for, by name."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from scgeneformer._engine.ranking import RankValue
from scgeneformer._engine.two_time_points import TwoTimePoints
from scgeneformer._engine.value_bins import ValueBinned
from scgeneformer._errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scipy.sparse import csr_matrix

    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary


class Encoding(Protocol):
    """One way to encode cells; its fields are its settings, stored with the vocabulary.

    It reads the counts of cells at `n_times` time points; where that is 1, `previous` is always None. Columns of `obs`
    in its `context` have a token in front of the genes, unknown until :func:`fill_context`. Where the position of a
    token is not its place in the cell, `n_positions` says how many there are.
    """

    name: ClassVar[str]
    n_times: ClassVar[int]

    @property
    def context(self) -> Mapping[str, list[str]]:
        """Column of `obs` -> its values."""

    @property
    def n_positions(self) -> int | None:
        """Positions that the model must have, whatever the input size; None: as many as tokens."""

    def encode(
        self,
        counts: csr_matrix,
        gene_tokens: np.ndarray,
        vocabulary: Vocabulary,
        previous: csr_matrix | None = None,
    ) -> tuple[Tokens, np.ndarray]:
        """Tokens of some cells, and the known genes of each before truncation, as :func:`rank_value_encode`."""


ENCODINGS: dict[str, type[Encoding]] = {one.name: one for one in (RankValue, TwoTimePoints, ValueBinned)}


def encoding_to_dict(encoding: Encoding) -> dict[str, Any]:
    """Name and settings, as they are stored."""
    return {"name": encoding.name, **asdict(encoding)}  # type: ignore[call-overload]


def encoding_from_dict(stored: Mapping[str, Any]) -> Encoding:
    """Undo :func:`encoding_to_dict`.

    Raises
    ------
    ModelError
        If there is no encoding of that name, or it has no such setting.
    """
    settings = dict(stored)
    if (name := settings.pop("name", None)) not in ENCODINGS:
        raise ModelError(f"encoding {name!r} is not known; there are: {', '.join(map(repr, ENCODINGS))}.")
    known = {field.name for field in fields(ENCODINGS[name])}  # type: ignore[arg-type]
    if unknown := sorted(set(settings) - known):
        raise ModelError(f"The encoding {name!r} has no setting {unknown[0]!r}.")
    return ENCODINGS[name](**settings)


def fill_context(tokens: Tokens, context: np.ndarray, vocabulary: Vocabulary) -> None:
    """Put the tokens of the context, (n_cells, n_columns), in their places, in front of the genes of each cell."""
    filled = tokens.lengths > 0
    first = tokens.offsets[:-1][filled] + vocabulary.n_lead - context.shape[1]
    tokens.ids[first[:, None] + np.arange(context.shape[1])] = context[filled]


def check_ranked(vocabulary: Vocabulary, function: str, remedy: str) -> None:
    """Refuse what makes sense only where the position of a gene is its rank.

    Parameters
    ----------
    vocabulary
        Of the model.
    function
        What was called, as a user writes it.
    remedy
        A sentence that says what to do instead.

    Raises
    ------
    DataError
        If positions mean something else.
    """
    if vocabulary.encoding.n_positions is not None:
        raise DataError(
            f"{function} works on the order of a cell's genes, and the model reads the encoding "
            f"{vocabulary.encoding.name!r}, in which the position of a gene is the bin of its value. {remedy}"
        )
