"""What genes are moved to, set to, or replaced by: from a user's words to the terms of the engine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from scgeneformer._engine.perturbation.edits import EDITS
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgeneformer._engine.vocabulary import Vocabulary

    To = Callable[[int], tuple[float, ...]]  # token of a gene -> `to` of edits.Edit

FIXED = ("mask", "pad")  # modes whose token is their name


def in_terms_of_the_engine(mode: str, to: Any, vocabulary: Vocabulary) -> To:
    """Check `to` for a mode, and give it by the token of the gene.

    Raises
    ------
    DataError
        If the mode does not take it, or it is not what the mode takes.
    """
    kind = EDITS[mode]
    if to is None and not kind.needs_to and mode not in FIXED:
        return lambda gene: ()
    return READERS[kind.to](mode, to, vocabulary)


def _rank(mode: str, to: Any, vocabulary: Vocabulary) -> To:
    if isinstance(to, bool) or not isinstance(to, int) or to < 1:
        raise DataError(f"to={to!r} is no rank, which mode={mode!r} takes: a whole number, 1 being the first.")
    return lambda gene: (to - 1,)


def _value(mode: str, to: Any, vocabulary: Vocabulary) -> To:
    try:
        value = math.nan if isinstance(to, str | bool) else float(to)
    except TypeError:
        value = math.nan
    if not 0 <= value < math.inf:
        unit = f"counts per {vocabulary.target_sum:,.0f}"
        raise DataError(f"to={to!r} is no expression value, which mode={mode!r} takes: {unit}, 0 for none.")
    return lambda gene: (value / vocabulary.median_of_token[gene],)


def _token(mode: str, to: Any, vocabulary: Vocabulary) -> To:
    special = vocabulary.special
    if mode in FIXED:
        if to is not None:
            raise DataError(f"mode={mode!r} puts <{mode}> in place; for another token mode='replace', to={to!r}.")
        to = f"<{mode}>"
    token = special.get(to, vocabulary.token_of_name.get(to.upper())) if isinstance(to, str) else to
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocabulary.n_tokens:
        raise DataError(
            f"mode={mode!r}: the model has no token {to!r}. Name by to= a special token ({', '.join(special)}), a "
            f"gene, or the number of a token, 0 to {vocabulary.n_tokens - 1}."
        )
    return lambda gene: (token,)


def _nothing(mode: str, to: Any, vocabulary: Vocabulary) -> To:
    takers = ", ".join(repr(name) for name, one in EDITS.items() if one.to and name not in FIXED)
    raise DataError(f"to={to!r} has no meaning for mode={mode!r}; leave it out. Modes that take it: {takers}.")


READERS: dict[str, Callable[[str, Any, Vocabulary], To]] = {
    "rank": _rank,
    "value": _value,
    "token": _token,
    "": _nothing,
}
