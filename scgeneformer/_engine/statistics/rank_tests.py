"""Rank tests of many perturbations at once, and the adjustment of their p-values.

scipy has the same tests for one sample at a time. These take all perturbations in one sort, or look a small sample up
in a large one that is sorted once; the tests hold them against scipy.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr
from scipy.stats import false_discovery_control, norm

EXACT = 12  # non-zero values up to which the signed-rank test goes through all 2^n signs


class RankSum:
    """Wilcoxon's rank-sum test of any number of samples against one pool, two-sided, with ties and without continuity.

    With n values x and a pool of m values y, U = #{y < x} + #{y = x} / 2 over all pairs has mean n m / 2 and variance
    n m / 12 · (N + 1 − Σ (t³ − t) / (N (N − 1))), N = n + m, t the sizes of the ties of both together.

    Parameters
    ----------
    pool
        The values y.
    """

    def __init__(self, pool: np.ndarray) -> None:
        self.pool = np.sort(pool)
        self._ties = _excess(np.unique(self.pool, return_counts=True)[1]).sum()

    def test(self, values: np.ndarray) -> tuple[float, float]:
        """Z-score, positive if the values are larger than the pool, and p-value; NaN if all values are the same."""
        n, m = len(values), len(self.pool)
        if not n or not m:
            return np.nan, np.nan
        distinct, times = np.unique(values, return_counts=True)
        left, right = np.searchsorted(self.pool, distinct, "left"), np.searchsorted(self.pool, distinct, "right")
        u = ((left + right) / 2 * times).sum()
        in_pool = right - left
        ties = self._ties + (_excess(in_pool + times) - _excess(in_pool)).sum()
        total = float(n + m)
        variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
        if variance <= 1e-9 * n * m:
            return np.nan, np.nan
        z = float((u - n * m / 2) / np.sqrt(variance))
        return z, float(2 * norm.sf(abs(z)))


def _excess(times: np.ndarray) -> np.ndarray:
    times = times.astype(np.float64)
    return times**3 - times


def signed_rank(columns: np.ndarray, values: np.ndarray, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Wilcoxon's signed-rank test of the values of each column against a distribution symmetric about 0, two-sided.

    Zeros are dropped, ties have their mean rank. With ranks R of |x|, z = Σ sign(x) R / √ΣR²; p is exact (all signs) up
    to 12 values that are not zero, else from the normal distribution.

    Parameters
    ----------
    columns
        Column of each value, (n,).
    values
        (n,).
    n_columns
        Number of columns.

    Returns
    -------
    z and p, (n_columns,) each: 0 and 1 for columns with zeros only, NaN for those without a value.
    """
    z, p = np.full((2, n_columns), np.nan)
    any_value = np.bincount(columns, minlength=n_columns) > 0
    z[any_value], p[any_value] = 0.0, 1.0
    kept = values != 0
    columns, values = columns[kept], values[kept]
    order = np.lexsort((np.abs(values), columns))
    columns, values = columns[order], values[order]
    signed = np.sign(values) * _tied_ranks(columns, np.abs(values))
    total = np.bincount(columns, signed, minlength=n_columns)
    square = np.bincount(columns, signed**2, minlength=n_columns)
    tested = square > 0
    z[tested] = total[tested] / np.sqrt(square[tested])
    p[tested] = 2 * norm.sf(np.abs(z[tested]))
    n = np.bincount(columns, minlength=n_columns)
    starts = np.cumsum(n) - n
    for column in np.flatnonzero((n > 0) & (n <= EXACT)):
        ranks = np.abs(signed[starts[column] : starts[column] + n[column]])
        signs = 1 - 2 * (np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks)) & 1)
        p[column] = (np.abs(signs @ ranks) >= abs(total[column]) - 1e-9).mean()
    return z, p


def _tied_ranks(columns: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Ranks from 1 within columns, for values sorted by column and size; equal ones have their mean rank."""
    n = len(columns)
    new_column = np.diff(columns, prepend=-1) != 0
    new_value = new_column | (np.diff(sizes, prepend=-1) != 0)
    first = np.flatnonzero(new_value)
    length = np.diff(np.append(first, n))
    start_of_column = np.maximum.accumulate(np.where(new_column, np.arange(n), 0)) if n else first
    mean = first - start_of_column[first] + (length + 1) / 2
    return np.repeat(mean, length)


def one_sample_t(values: np.ndarray, floor: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Student's test that the mean over replicates is 0, two-sided.

    Parameters
    ----------
    values
        (n, n_replicates); NaN = the replicate does not count.
    floor
        Least variance between replicates, (n,).

    Returns
    -------
    t, p and the number of replicates, (n,) each; NaN below two replicates, or if they do not vary at all.
    """
    n = (~np.isnan(values)).sum(axis=1)
    many = np.maximum(n, 1)
    mean = np.nansum(values, axis=1) / many
    variance = np.nansum((values - mean[:, None]) ** 2, axis=1) / np.maximum(n - 1, 1)
    variance = np.maximum(variance, floor)
    tested = (n > 1) & (variance > 0)
    t, p = np.full((2, len(n)), np.nan)
    t[tested] = mean[tested] / np.sqrt(variance[tested] / n[tested])
    p[tested] = 2 * stdtr(n[tested] - 1, -np.abs(t[tested]))
    return t, p, n


def adjust(pvals: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over the p-values that are not NaN."""
    adjusted, tested = np.full(len(pvals), np.nan), ~np.isnan(pvals)
    if tested.any():
        adjusted[tested] = false_discovery_control(pvals[tested], method="bh")
    return adjusted
