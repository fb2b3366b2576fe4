"""Groups of cells from one or several columns of `obs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata.frames import read_obs
from scgeneformer._adata.keys import group_key
from scgeneformer._checks import as_names
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class Groups:
    """Group of every cell.

    Parameters
    ----------
    columns
        The columns of `obs` that define the groups.
    codes
        Number of the group of each cell, (n_obs,) int64, -1 for cells with a missing label.
    names
        Name of each group; the labels of several columns are joined by " | ".
    frame
        The label of each group in each column, (n_groups, n_columns) str.
    """

    columns: list[str]
    codes: np.ndarray
    names: list[str]
    frame: pd.DataFrame

    def count(self, used: np.ndarray) -> np.ndarray:
        """Number of cells of each group that were used, (n_groups,) int64, from which they are, (n_obs,) bool."""
        return np.bincount(self.codes[used & (self.codes >= 0)], minlength=len(self.names))

    def table(self, n_cells: np.ndarray) -> pd.DataFrame:
        """Labels of each group and the number of its cells that were used, as stored beside a result."""
        return self.frame.assign(n_cells=n_cells)


def groups_and_rest(groups: Groups | None, n_obs: int) -> tuple[np.ndarray, int]:
    """Group of each cell, those without a label as one more, (n_obs,) int64, and how many; one of all if None."""
    if groups is None:
        return np.zeros(n_obs, dtype=np.int64), 1
    n_groups, rest = len(groups.names), groups.codes < 0
    return np.where(rest, n_groups, groups.codes), n_groups + int(rest.any())


def choose_groups(present: list[str], asked: str | Sequence[str] | None, name: str = "group") -> list[str]:
    """The groups that a user asks for, each once; None for all.

    Raises
    ------
    DataError
        If one of them does not exist, or none is named.
    """
    chosen = present if asked is None else list(dict.fromkeys(as_names(asked)))
    missing = [one for one in chosen if one not in present]
    if missing or not chosen:
        what = f"{missing[0]!r} does not exist" if missing else "[] names no group"
        raise DataError(f"{name}={what}; the groups are: {', '.join(map(repr, present))}.")
    return chosen


def frame_of_groups(
    stored: Iterable[str], asked: str | Sequence[str] | None, columns: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Columns (n, n_groups) of the groups that a user asks for, one group below the other, with "group" before them.

    Raises
    ------
    DataError
        As :func:`choose_groups`.
    """
    names = [str(name) for name in stored]
    frames = [
        pd.DataFrame({"group": name, **{key: np.asarray(each)[:, names.index(name)] for key, each in columns.items()}})
        for name in choose_groups(names, asked)
    ]
    return pd.concat(frames, ignore_index=True)


def find_groups(
    adata: AnnData, groupby: str | Sequence[str], *, asked: str = "groupby", key: str | None = None
) -> Groups:
    """Group the cells by one or several columns of `obs`; cells with a missing label belong to no group.

    Parameters
    ----------
    adata
        The data.
    groupby
        The columns.
    asked
        Name of the parameter by which the user gave them, for error messages.
    key
        Key to which the columns are appended where results are stored.

    Raises
    ------
    MissingKeyError
        If a column does not exist.
    DataError
        If no cell has a label, or the results would have the key of others.
    """
    columns = list(dict.fromkeys(as_names(groupby)))
    labels = read_obs(adata, columns, asked)
    if "n_cells" in columns:
        raise DataError(f"{asked}='n_cells' is the name under which the number of cells is stored. Rename the column.")
    if key is not None:
        group_key(key, columns)  # refuses that of other results
    known = labels.notna().all(axis=1).to_numpy()
    if not known.any():
        raise DataError(f"All labels in adata.obs[{columns!r}] are missing. Group by a column that has labels.")
    if n := int((~known).sum()):
        logg.warning(f"{n} of {adata.n_obs} cells have no label in {', '.join(columns)}: they count in no group")
    grouped = labels[known].groupby(columns, observed=True, sort=True)
    codes = np.full(adata.n_obs, -1, dtype=np.int64)
    codes[known] = grouped.ngroup().to_numpy()
    keys = [key if isinstance(key, tuple) else (key,) for key in grouped.size().index]
    frame = pd.DataFrame([[str(part) for part in key] for key in keys], columns=columns)
    names = frame.agg(" | ".join, axis=1).tolist()
    if len(set(names)) < len(names):
        raise DataError(f"Two groups of {', '.join(columns)} have the same name once written as text. Rename a label.")
    frame.index = pd.Index(names)
    return Groups(columns, codes, names, frame)
