"""Nearest vectors by cosine, exact, block by block."""

from __future__ import annotations

import numpy as np

BLOCK = 2**23  # similarities held at a time


def nearest(vectors: np.ndarray, queries: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the vectors with the largest cosine to each of some of them, the vector itself left out.

    cosine(i, j) = v_i · v_j / (‖v_i‖ ‖v_j‖), in float64. Never more than a few rows of the matrix of all pairs exist.

    Parameters
    ----------
    vectors
        (n, d), finite and none of them zero.
    queries
        Rows of `vectors`.
    n_neighbors
        At most n - 1 are found.

    Returns
    -------
    Rows of the neighbours, nearest first and equal ones by row, and their cosines; both (n_queries, n_neighbors).
    """
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    k = min(n_neighbors, len(unit) - 1)
    rows = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k))
    step = max(1, BLOCK // len(unit))
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        block = unit[some] @ unit.T
        block[np.arange(len(some)), some] = -np.inf
        last = np.partition(block, -max(k, 1), axis=1)[:, -max(k, 1), None]  # cosine of the last neighbour
        nearer, tied = block > last, block == last
        kept = nearer | (tied & (tied.cumsum(axis=1) <= k - nearer.sum(axis=1, keepdims=True)))
        best = kept.nonzero()[1].reshape(len(some), k)
        found = np.take_along_axis(block, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        rows[start : start + step] = np.take_along_axis(best, order, axis=1)
        cosines[start : start + step] = np.clip(np.take_along_axis(found, order, axis=1), -1, 1)
    return rows, cosines
