"""What a model is pretrained to predict, by the encoding of its vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgeneformer._engine.ranking import RankValue
from scgeneformer._engine.two_time_points import TwoTimePoints
from scgeneformer._engine.value_bins import ValueBinned
from scgeneformer._errors import ModelError
from scgeneformer._training.masked_genes import MaskedGenes
from scgeneformer._training.masked_values import MaskedValues

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.masked_genes import Objective

OBJECTIVES: dict[str, Callable[[Vocabulary, Any], Objective]] = {
    RankValue.name: MaskedGenes,
    TwoTimePoints.name: MaskedGenes,
    ValueBinned.name: MaskedValues,
}
"""Encoding of the vocabulary -> what is hidden and predicted."""


def find_objective(vocabulary: Vocabulary, start: Any = None) -> Objective:
    """What is hidden and predicted with the encoding of a vocabulary.

    Parameters
    ----------
    vocabulary
        Of the model.
    start
        Head to begin with, of the kind that the objective has; None draws one.

    Raises
    ------
    ModelError
        If nothing is known for it, or the vocabulary has no token to mask with.
    """
    if (name := vocabulary.encoding.name) not in OBJECTIVES:
        known = " or ".join(map(repr, OBJECTIVES))
        raise ModelError(f"Models of the encoding {name!r} cannot be pretrained, those of {known} can.")
    objective = OBJECTIVES[name](vocabulary, start)
    if missing := [token for token in objective.needs if token not in vocabulary.special]:
        raise ModelError(
            f"The vocabulary has no token {missing[0]}, which pretraining needs. Give it one: "
            f"special={{**vocabulary.special, {missing[0]!r}: vocabulary.n_tokens}}."
        )
    return objective
