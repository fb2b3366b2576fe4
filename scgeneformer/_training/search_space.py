"""Which settings of a recipe a search tries, and how a trial draws them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from scgeneformer._errors import DataError
from scgeneformer._training.recipe import LIMITS, Recipe, changed

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna import Trial

DEFAULT: dict[str, Any] = {  # that of the reference, with warm-up as a share of the steps and without the seed
    "learning_rate": (1e-6, 1e-3, "log"),
    "weight_decay": (0.0, 0.3),
    "schedule": ["linear", "cosine", "polynomial"],
    "warmup": (0.0, 0.3),
}
FIXED = {  # settings that are the same in all trials, and why
    "source": "it is no setting",
    "config": "it is no single value",
    "patience": "every trial runs to its end",
    "max_tokens": "it changes the tokens, which all trials share",
    "add_cls": "it changes the tokens, which all trials share",
}
OF_THE_MODEL = ("pooling", "num_layers", "frozen_layers")  # settings that the model must be able to do


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple

    def draw(self, trial: Trial, name: str) -> Any:
        """Value of a trial."""
        return trial.suggest_categorical(name, self.values)

    @property
    def ends(self) -> tuple:
        """Values that must make sense for all to do."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`; drawn on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, trial: Trial, name: str) -> Any:
        """Value of a trial."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    @property
    def ends(self) -> tuple:
        """Values that must make sense for all to do."""
        return self.low, self.high


def read_space(
    space: Mapping[str, Any] | None, base: Recipe, check: Callable[[Recipe], object]
) -> dict[str, Choice | Range]:
    """Settings to try by name.

    Parameters
    ----------
    space
        Setting -> list of choices, or tuple (lowest, highest) or (lowest, highest, "log"); None takes `DEFAULT`.
    base
        All other settings.
    check
        Refuses a recipe that the model cannot do.

    Raises
    ------
    DataError
        If a setting does not exist, cannot be searched, or a value makes no sense.
    """
    if space is None:
        space = DEFAULT
    if not isinstance(space, Mapping) or not space:
        raise DataError(
            f"space={space!r} must be a dictionary of settings, such as {{'learning_rate': (1e-5, 1e-3, 'log')}}."
        )
    return {name: _read(name, values, base, check) for name, values in space.items()}


def draw(trial: Trial, space: Mapping[str, Choice | Range], base: Recipe) -> Recipe:
    """Recipe of a trial; the same whenever it is asked for.

    Raises
    ------
    DataError
        If the settings make no sense together.
    """
    return changed(base, {name: values.draw(trial, name) for name, values in space.items()})


def _read(name: str, values: Any, base: Recipe, check: Callable[[Recipe], object]) -> Choice | Range:
    known = {field.name for field in fields(Recipe)} - set(FIXED)
    if name in FIXED:
        raise DataError(f"space: {name} cannot be searched: {FIXED[name]}.")
    if name not in known:
        raise DataError(
            f"space: {name!r} is no setting of a recipe; these can be searched: {', '.join(sorted(known))}."
        )
    found = _range(name, values) if isinstance(values, tuple) else _choice(name, values)
    for value in found.ends:
        recipe = changed(base, {name: value})
        if name in OF_THE_MODEL:
            check(recipe)
    return found


def _choice(name: str, values: Any) -> Choice:
    plain = None | bool | int | float | str
    if not isinstance(values, list) or not values or not all(isinstance(value, plain) for value in values):
        raise DataError(
            f"space[{name!r}]={values!r} must be a list of choices, or a tuple (lowest, highest) or "
            "(lowest, highest, 'log')."
        )
    return Choice(tuple(values))


def _range(name: str, values: tuple) -> Range:
    ends, log = values[:2], values[2:]
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
    if name not in LIMITS or len(ends) < 2 or log not in ((), ("log",)) or not numbers or not ends[0] < ends[1]:
        raise DataError(
            f"space[{name!r}]={values!r} is no range: (lowest, highest) or (lowest, highest, 'log') of a setting that "
            "is a number. Write choices as a list."
        )
    if log and ends[0] <= 0:
        raise DataError(f"space[{name!r}]={values!r}: a logarithmic scale begins above 0.")
    return Range(ends[0], ends[1], bool(log), LIMITS[name][2])
