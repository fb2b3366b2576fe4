"""Combine the rows of a matrix within groups: the one place that decides what a mean, median or variance of a group is.

The mean of x₁ … xₙ is Σx / n; the variance is Σ(x − mean)² / n, that of the n cells at hand (``ddof=0``); the median is
the middle value, or the mean of the two middle ones. All in float64, element by element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

AGGREGATES: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "median": np.median, "var": np.var}
BYTES_AT_A_TIME = 2**28


def aggregate(rows: np.ndarray, codes: np.ndarray, n_groups: int, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Combine the rows of each group.

    Parameters
    ----------
    rows
        (n, d), in memory or mapped from disk.
    codes
        Group of each row, (n,) int64; rows of group -1, and rows that hold a NaN, belong to none.
    n_groups
        Number of groups.
    how
        Name in `AGGREGATES`.

    Returns
    -------
    (n_groups, d) float32, NaN for groups without a row, and the number of rows of each group, (n_groups,) int64.
    """
    width = rows.shape[1]
    codes = np.where(rows_with_nan(rows), -1, codes)
    n_rows = np.bincount(codes[codes >= 0], minlength=n_groups)
    values = np.full((n_groups, width), np.nan, dtype=np.float32)
    order = np.argsort(codes, kind="stable")
    for code, members in enumerate(np.split(order[(codes < 0).sum() :], np.cumsum(n_rows)[:-1])):
        step = max(1, BYTES_AT_A_TIME // (8 * max(1, len(members))))
        for start in range(0, width if len(members) else 0, step):
            some = slice(start, start + step)
            values[code, some] = AGGREGATES[how](rows[members, some].astype(np.float64), axis=0)
    return values, n_rows


def rows_with_nan(rows: np.ndarray) -> np.ndarray:
    """Which rows hold a NaN, (n,) bool."""
    found = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), 4096):  # never a second matrix of this size
        found[start : start + 4096] = np.isnan(rows[start : start + 4096]).any(axis=1)
    return found
