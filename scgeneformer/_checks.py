"""Parameters that many functions share: checked, and brought into one form."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from scgeneformer._errors import DataError


def check_whole(least: int = 1, most: int | None = None, /, **numbers: Any) -> None:
    """Refuse parameters, given by their names, that are no whole numbers within the limits."""
    for name, value in numbers.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least or (most is not None and value > most):
            span = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise DataError(f"{name}={value!r} must be a whole number {span}.")


def check_positive(most: float = np.inf, /, **numbers: Any) -> None:
    """Refuse parameters, given by their names, that are no numbers above 0 and within the limit."""
    limit = f" and at most {most:g}" if most < np.inf else ""
    for name, value in numbers.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not 0 < value <= most:
            raise DataError(f"{name}={value!r} must be a number above 0{limit}.")


def check_choice(choices: Iterable[str], /, **values: Any) -> None:
    """Refuse parameters, given by their names, that are none of the choices."""
    known = list(choices)
    for name, value in values.items():
        if not isinstance(value, str) or value not in known:
            raise DataError(f"{name}={value!r} does not exist; choose one of {', '.join(map(repr, known))}.")


def did_you_mean(names: Iterable[str], known: Iterable[str]) -> str:
    """A hint at the name that one of the first three was to be, if one is near; more would take seconds."""
    choices = list(known)
    found = (difflib.get_close_matches(name, choices, n=1, cutoff=0.75) for name in islice(names, 3))
    return next((f" Did you mean {close[0]!r}?" for close in found if close), "")


def as_names(asked: Any) -> list[str]:
    """Names that a user asks for, one or several, as text: labels may be numbers."""
    one = isinstance(asked, str) or not isinstance(asked, Iterable)
    return [str(name) for name in ([asked] if one else asked)]
