"""The shifts of a set of cells under a set of perturbations, as a flat table with one row per result."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp


@dataclass(frozen=True, eq=False)
class ShiftTable:
    """One row per cell and perturbation that applies to it, sorted by perturbation, then cell.

    Parameters
    ----------
    cells, columns
        Cell and perturbation of each row, (n,) int64.
    values
        The shift that is tested, (n,) float64.
    ranks
        Rank of the perturbed gene in the unperturbed cell, 1 = first, (n,) int64; 0 if it is not in the cell, or if
        there is no such thing (combinations).
    states
        Shift towards each state, (n, n_states) float64.
    parts
        Shift of the gene alone and of the anchor alone, (n, 2) float64, NaN where not known; (n, 0) without an anchor.
    n_columns
        Number of perturbations.
    """

    cells: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    ranks: np.ndarray
    states: np.ndarray
    parts: np.ndarray
    n_columns: int

    def __len__(self) -> int:
        return len(self.cells)

    def where(self, keep: np.ndarray | slice) -> ShiftTable:
        """Some of the rows, in their order."""
        rows = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "n_columns"}
        return replace(self, **rows)

    @property
    def n_cells(self) -> np.ndarray:
        """Rows of each perturbation, (n_columns,) int64."""
        return np.bincount(self.columns, minlength=self.n_columns)

    @property
    def starts(self) -> np.ndarray:
        """First row of each perturbation and, behind them, the number of rows, (n_columns + 1,) int64."""
        return np.concatenate([[0], np.cumsum(self.n_cells)])

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of some values of the rows over those of each perturbation that are not NaN; NaN if there is none."""
        known = ~np.isnan(values)
        return group_means(self.columns[known], values[known], self.n_columns)

    def sds(self, values: np.ndarray) -> np.ndarray:
        """Standard deviation (``ddof=1``) over the rows of each perturbation; NaN below two."""
        off = values - self.means(values)[self.columns]
        sums = np.bincount(self.columns, off**2, minlength=self.n_columns)
        return np.where(self.n_cells > 1, np.sqrt(sums / np.maximum(self.n_cells - 1, 1)), np.nan)

    @property
    def mean_ranks(self) -> np.ndarray:
        """Mean rank of each gene in the cells it is in, (n_columns,); NaN if it is in none."""
        return self.means(np.where(self.ranks > 0, self.ranks, np.nan))


def group_means(groups: np.ndarray, values: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean of the values of each group, (n_groups,); NaN for those without any."""
    n = np.bincount(groups, minlength=n_groups)
    sums = np.bincount(groups, values, minlength=n_groups)
    return np.where(n > 0, sums / np.maximum(n, 1), np.nan)


def distinct_columns(*matrices: sp.csc_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Find columns that are the same, entry by entry, in all of some sparse matrices.

    Genes that share a token have one result written to each of their columns. It must not count as several.

    Parameters
    ----------
    matrices
        Of one shape, with sorted indices; zeros that are stored are entries.

    Returns
    -------
    The first of each set of equal columns, (n_distinct,), and the place of each column in it, (n_columns,); -1 for
    columns without an entry.
    """
    seen: dict[tuple[bytes, ...], int] = {}
    first: list[int] = []
    place = np.full(matrices[0].shape[1], -1, dtype=np.int64)
    for column in range(len(place)):
        parts: list[bytes] = []
        for matrix in matrices:
            some = slice(matrix.indptr[column], matrix.indptr[column + 1])
            parts += [matrix.indices[some].tobytes(), matrix.data[some].tobytes()]
        if any(parts):
            place[column] = seen.setdefault(tuple(parts), len(first))
            if place[column] == len(first):
                first.append(column)
    return np.array(first, dtype=np.int64), place
