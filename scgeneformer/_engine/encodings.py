"""How a cell becomes a sequence of tokens: the encodings a vocabulary can ask for, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from scgeneformer._engine.ranking import rank_value_encode
from scgeneformer._errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from scipy.sparse import csr_matrix

    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary


class Encoding(Protocol):
    """One way to encode cells; its fields are its settings, stored with the vocabulary."""

    name: ClassVar[str]

    def encode(self, counts: csr_matrix, gene_tokens: np.ndarray, vocabulary: Vocabulary) -> tuple[Tokens, np.ndarray]:
        """Tokens of some cells, and the known genes of each before truncation, as :func:`rank_value_encode`."""


@dataclass(frozen=True)
class RankValue:
    """The genes of a cell in descending order of count / median (Theodoris et al. 2023); the position is the rank."""

    name: ClassVar[str] = "rank-value"

    def encode(self, counts: csr_matrix, gene_tokens: np.ndarray, vocabulary: Vocabulary) -> tuple[Tokens, np.ndarray]:
        """See :func:`rank_value_encode`."""
        return rank_value_encode(counts, gene_tokens, vocabulary)


ENCODINGS: dict[str, type[Encoding]] = {RankValue.name: RankValue}


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
