"""Where a perturbation should lead: from the cells of one state to those of another, and away from others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata.groups import find_groups
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

FORM = "goal={'column': 'disease', 'start': 'dcm', 'goal': 'nf', 'alternatives': ['hcm']}"


@dataclass(frozen=True, eq=False)
class Goal:
    """States of cells.

    Parameters
    ----------
    column
        Column of `obs` that names them.
    states
        Start, goal, alternatives.
    codes
        Place of each cell's state among them, (n_obs,) int64, -1 for other states.
    """

    column: str
    states: list[str]
    codes: np.ndarray

    @property
    def slugs(self) -> list[str]:
        """The states as parts of keys: letters, digits, "_" and "-"; where they would be the same, with a number."""
        plain = [re.sub(r"[^A-Za-z0-9_-]+", "_", state).strip("_") or "state" for state in self.states]
        found: list[str] = []
        for slug in plain:
            others = (one for n in count(len(found)) if (one := f"{slug}_{n}") not in {*found, *plain})
            found.append(next(others) if slug in found else slug)
        return found


def find_goal(adata: AnnData, goal: dict[str, Any]) -> Goal:
    """Read a description of the states, and find their cells.

    Raises
    ------
    MissingKeyError
        If the column does not exist.
    DataError
        If the description is no such, a state has no cells, or is named twice.
    """
    known, needed = {"column", "start", "goal", "alternatives"}, {"column", "start", "goal"}
    if not isinstance(goal, dict) or not needed <= set(goal) <= known:
        raise DataError(f"goal={goal!r} is not understood. It names a column of adata.obs and its states: {FORM}.")
    column = goal["column"]
    others = goal.get("alternatives", [])
    states = [str(one) for one in (goal["start"], goal["goal"], *([others] if isinstance(others, str) else others))]
    groups = find_groups(adata, [column], asked="goal['column']")
    listed = ", ".join(map(repr, groups.names))
    if missing := [state for state in states if state not in groups.names]:
        raise DataError(f"No cell has the state {missing[0]!r} in adata.obs[{column!r}]; the states are: {listed}.")
    if len(set(states)) < len(states):
        twice = next(state for state in states if states.count(state) > 1)
        raise DataError(f"The state {twice!r} is named twice in goal=. Start, goal and alternatives must differ.")
    place = np.full(len(groups.names) + 1, -1)
    for i, state in enumerate(states):
        place[groups.names.index(state)] = i
    return Goal(column, states, place[groups.codes])
