"""Where names stand in a plot."""

from __future__ import annotations

import numpy as np


def spread(ys: np.ndarray, gap: float) -> np.ndarray:
    """Ascending positions at least `gap` apart, as near to the given ones as least squares can have them."""
    from sklearn.isotonic import isotonic_regression

    steps = gap * np.arange(len(ys))
    return isotonic_regression(ys - steps) + steps if len(ys) else ys
