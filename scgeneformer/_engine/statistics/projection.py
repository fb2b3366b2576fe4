r"""Vectors in a space of many dimensions as arrows in a map of two, as RNA velocity draws them.

A map such as a UMAP has no directions of its own, but it has neighbours. With cells x and a vector v at cell i, the k
nearest neighbours j of i weigh

    w_ij = exp(cos(v_i, x_j − x_i) / T) / Σ_j' exp(cos(v_i, x_j' − x_i) / T)

by how far the way to them points along v, and the arrow is the weighted mean of the ways in the map less the unweighted
one, which would point to where there are most cells:

    a_i = Σ_j (w_ij − 1/k) · (m_j − m_i) / ‖m_j − m_i‖

An arrow is as long as the neighbours agree, whatever the length of v. (La Manno et al. 2018, Nature 560, 494; Bergen et
al. 2020, Nat. Biotechnol. 38, 1408.)
"""

from __future__ import annotations

import numpy as np

BLOCK = 2**24  # numbers in the largest array
WIDTH, LEAST = 0.6, 0.15  # of a cell's weight around it, in steps of the grid; of the weight at a point that is shown


def project(
    vectors: np.ndarray, points: np.ndarray, positions: np.ndarray, n_neighbors: int, temperature: float
) -> np.ndarray:
    """Arrows of the vectors in the map.

    Parameters
    ----------
    vectors
        (n, d); NaN where there is none.
    points
        Cells in the space of the vectors, (n, d).
    positions
        Cells in the map, (n, 2).
    n_neighbors
        k.
    temperature
        T.

    Returns
    -------
    (n, 2); NaN where there is no vector, or it has no length.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(n_neighbors, len(points) - 1)
    length = np.linalg.norm(vectors, axis=1)
    rows = np.flatnonzero(length > 0)  # not of NaN
    arrows = np.full((len(vectors), 2), np.nan)
    search = NearestNeighbors(n_neighbors=k + 1).fit(points)
    step = max(1, BLOCK // ((k + 1) * points.shape[1]))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        near = search.kneighbors(points[some], return_distance=False)
        near = _without_itself(near, some)
        ways = points[near] - points[some, None]  # (cells, k, d)
        norms = np.linalg.norm(ways, axis=2)
        cosines = np.einsum("ckd,cd->ck", ways, vectors[some]) / np.maximum(norms * length[some, None], 1e-30)
        weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / temperature)
        weights = weights / weights.sum(axis=1, keepdims=True) - 1 / k
        ways = positions[near] - positions[some, None]
        ways = ways / np.maximum(np.linalg.norm(ways, axis=2, keepdims=True), 1e-30)
        arrows[some] = np.einsum("ck,ckm->cm", weights, ways)
    return arrows


def _without_itself(near: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The neighbours without the cell itself, or, where cells are the same, without the last of them."""
    itself = near == rows[:, None]
    itself[~itself.any(axis=1), -1] = True
    return near[~itself].reshape(len(rows), -1)


def smooth(positions: np.ndarray, arrows: np.ndarray, n_grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean arrows at the points of a grid over the map, where there are cells.

    Cells weigh by a Gaussian of their distance, of standard deviation `WIDTH` steps of the grid. Points whose cells
    together weigh less than `LEAST` times those of the most crowded point (the 99th percentile) are left out.

    Parameters
    ----------
    positions, arrows
        Of the cells, (n, 2); cells with NaN have no part.
    n_grid
        Points of the grid along the longer side.

    Returns
    -------
    Points and arrows, (n_points, 2) each.
    """
    known = ~np.isnan(arrows).any(axis=1)
    positions, arrows = positions[known], arrows[known]
    if not len(arrows):
        return np.empty((0, 2)), np.empty((0, 2))
    low, high = positions.min(axis=0), positions.max(axis=0)
    step = float((high - low).max()) / max(n_grid - 1, 1) or 1.0
    axes = [np.arange(a, b + step, step) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    sums, mass = np.zeros((len(grid), 2)), np.zeros(len(grid))
    for start in range(0, len(positions), block := max(1, BLOCK // len(grid))):
        some = slice(start, start + block)
        square = ((grid[:, None] - positions[None, some]) ** 2).sum(axis=2)  # (points, cells)
        weights = np.exp(-square / (2 * (WIDTH * step) ** 2))
        sums += weights @ arrows[some]
        mass += weights.sum(axis=1)
    there = mass > LEAST * np.percentile(mass, 99)
    return grid[there], sums[there] / mass[there, None]
