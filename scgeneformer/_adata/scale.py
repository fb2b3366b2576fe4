"""Tell whether fractions are on a linear scale or logarithms: on the right scale they are what counts can become.

Counts over a constant of the cell, such as counts per 10,000, are whole multiples of the smallest value of the cell.
And all cells may have been brought to one total, also those whose values are no such multiples (TPM, counts less
ambient RNA, values that were rounded).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp

LOG_BASES = (np.e, 2.0, 10.0)
FIT = 0.005  # evidence below; float32 leaves 1e-6, three digits 0.004, and other scales 0.015 and more
N_CELLS = 200  # that are looked at
FEWEST = 20  # cells whose totals are not equal by chance


def evident_base(values: sp.csr_matrix, bases: tuple[float, ...] = LOG_BASES) -> float | None:
    """Base of the logarithm that was taken of 1 + counts, NaN for a linear scale, None if the values do not tell.

    Parameters
    ----------
    values
        Not negative, (n_cells, n_vars) CSR.
    bases
        Those that come into question.
    """
    values = values[:: max(1, values.shape[0] // N_CELLS)]
    values.eliminate_zeros()
    values = values[np.flatnonzero(np.diff(values.indptr))]
    starts, n = values.indptr[:-1], np.diff(values.indptr)
    found: list[tuple[float, float, int]] = []
    for base in (np.nan, *bases):
        x = values.data.astype(np.float64)
        x = x if np.isnan(base) else np.expm1(x * np.log(base))
        ratios, totals = x / np.repeat(np.minimum.reduceat(x, starts), n), np.add.reduceat(x, starts)
        equal = _from_equal(totals)
        found.append((equal if equal < FIT else np.inf, _from_whole(ratios[ratios > 1]), len(found)))
    equal, whole, best = min(found)  # of those that fit alike the first
    return (np.nan, *bases)[best] if min(equal, whole) < FIT else None


def _from_equal(totals: np.ndarray) -> float:
    """Median distance from the median, as a share of it; those of few cells say nothing."""
    return float(np.median(np.abs(totals / np.median(totals) - 1))) if len(totals) >= FEWEST else np.inf


def _from_whole(ratios: np.ndarray) -> float:
    """Median distance from whole numbers; 0 if there are none, as in cells whose values are all the same."""
    return float(np.median(np.abs(ratios - np.rint(ratios)))) if len(ratios) else 0.0
