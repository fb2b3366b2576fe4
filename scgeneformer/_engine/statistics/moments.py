"""Mean and scatter matrix of rows that come in blocks, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable


class Moments(NamedTuple):
    """Number of rows, their mean (d,), and the scatter matrix Σ (x − mean)(x − mean)ᵀ (d, d), in float64."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray


def moments(blocks: Iterable[np.ndarray], n_features: int) -> Moments:
    """Mean and scatter matrix of all rows.

    Each block is centred on its own mean and merged with those before (Chan, Golub & LeVeque 1983), which keeps the
    digits where the mean is large beside the variance. With n rows so far and m in the block, whose means differ by δ:

        mean += δ m / (n + m)        scatter += Σ (x − block mean)(x − block mean)ᵀ + δδᵀ n m / (n + m).

    Parameters
    ----------
    blocks
        Rows, (any number, d) float64, finite.
    n_features
        d.
    """
    n, mean, scatter = 0, np.zeros(n_features), np.zeros((n_features, n_features))
    for block in blocks:
        m, own = len(block), block.mean(axis=0)
        shift = own - mean
        rows = np.vstack([block - own, np.sqrt(n * m / (n + m)) * shift])
        scatter += rows.T @ rows
        mean += shift * (m / (n + m))
        n += m
    return Moments(n, mean, scatter)
