"""Principal components of rows that come in blocks: each method is one function and one line of `METHODS`.

The model of both is a mean μ, orthonormal axes U (d, q) and the variance λ along each of them, with what is left, the
noise variance σ² = (total variance − Σλ) / (d − q), the same in all other directions. Variances have the divisor n − 1,
as in scikit-learn and scanpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._engine.statistics.moments import moments
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BLOCK_BYTES = 2**25  # of one block in float64
MAX_SQUARE = 8192  # features whose covariance, half a GiB, still fits well
NO_VARIANCE = 1e-28  # share of the squared mean below which a variance is rounding
NO_NOISE = 1e-12  # share of the variance below which what is left beside the components is rounding


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components, all in float64.

    Parameters
    ----------
    n_rows
        Rows they were fitted on, n.
    mean
        μ, (d,).
    axes
        U, (d, q): orthonormal columns, in order of variance; the entry of largest magnitude of each is positive
        (``svd_flip`` of scikit-learn with ``u_based_decision=False``).
    variance
        λ, (q,): variance along each axis.
    total_variance
        Sum of the variances of all features.
    """

    n_rows: int
    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    total_variance: float

    @property
    def variance_ratio(self) -> np.ndarray:
        """Share of the total variance along each axis, (q,)."""
        return self.variance / self.total_variance

    @property
    def noise_variance(self) -> float:
        """Mean variance in the directions that are left, σ²; 0 if none is left."""
        left = len(self.mean) - len(self.variance)
        return max(0.0, self.total_variance - self.variance.sum()) / max(left, 1)


@dataclass(frozen=True, eq=False)
class Method:
    """One way to find and to use components.

    Parameters
    ----------
    fit
        Finds the components, from blocks of rows (NaN rows included), d and q.
    scale
        By what the projections Uᵀ(x − μ) are multiplied, (q,).
    log_likelihood
        Of each row, from the components, x − μ and Uᵀ(x − μ); None if the method has no density.
    max_features
        Largest d.
    """

    fit: Callable[[Iterable[np.ndarray], int, int], Components]
    scale: Callable[[Components], np.ndarray]
    log_likelihood: Callable[[Components, np.ndarray, np.ndarray], np.ndarray] | None = None
    max_features: float = np.inf

    def most_comps(self, n_rows: int, n_features: int) -> int:
        """Components that the variance of so many rows can have; a density needs some that is left over."""
        return max(0, min(n_features, n_rows - 1) - (self.log_likelihood is not None))


def rows_per_block(n_features: int) -> int:
    """Rows of a block of `BLOCK_BYTES`."""
    return max(1, BLOCK_BYTES // (8 * n_features))


def fit(method: str, blocks: Iterable[np.ndarray], n_features: int, n_comps: int) -> Components:
    """Find principal components; rows that hold a NaN are left out.

    Parameters
    ----------
    method
        Name in `METHODS`.
    blocks
        All rows in order, (any number, d) float64.
    n_features
        d.
    n_comps
        q.

    Raises
    ------
    DataError
        If there are too few rows without NaN, they do not vary, or nothing is left for the noise of a density.
    """
    how = METHODS[method]
    found = how.fit(blocks, n_features, n_comps)
    if not found.total_variance > NO_VARIANCE * found.mean @ found.mean:
        raise DataError(f"The {found.n_rows} rows without NaN are all the same: there is no variance to find axes of.")
    left = found.total_variance - found.variance.sum()
    if how.log_likelihood is not None and left <= NO_NOISE * found.total_variance:
        raise DataError(
            f"n_comps={n_comps} components hold all of the variance, and method={method!r} needs some beside them. "
            "Give a smaller n_comps, or method='incremental'."
        )
    return found


def check_n_comps(method: str, n_rows: int, n_features: int, n_comps: int) -> None:
    """Refuse more components than so many rows and features can have."""
    if n_comps > (most := METHODS[method].most_comps(n_rows, n_features)):
        remedy = f"Give n_comps={most} or fewer." if most else "More cells or features are needed."
        raise DataError(
            f"n_comps={n_comps} is too many for method={method!r}: {n_rows} rows of {n_features} features have at most "
            f"{most} (rows with a NaN do not count). {remedy}"
        )


def project(
    method: str, components: Components, blocks: Iterable[tuple[int, np.ndarray]], n_rows: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Scores of all rows, (n_rows, q) float32, and their log-likelihoods, (n_rows,) float32, if the method has any.

    Rows that hold a NaN are NaN in both. `blocks` are (number of the first row, rows).
    """
    how = METHODS[method]
    scores = np.empty((n_rows, len(components.variance)), dtype=np.float32)
    densities = None if how.log_likelihood is None else np.empty(n_rows, dtype=np.float32)
    scale = how.scale(components)
    for start, block in blocks:
        some = slice(start, start + len(block))
        centered = block - components.mean
        projected = centered @ components.axes
        scores[some] = projected * scale
        if how.log_likelihood is not None and densities is not None:
            densities[some] = how.log_likelihood(components, centered, projected)
    return scores, densities


def complete_rows(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The rows without NaN in blocks of `size`, the last may be smaller: the same however they come."""
    kept: list[np.ndarray] = []
    n = 0
    for block in blocks:
        kept.append(block[~np.isnan(block).any(axis=1)])
        n += len(kept[-1])
        if n < size:
            continue
        rows = np.concatenate(kept)
        whole = n // size * size
        yield from rows[:whole].reshape(-1, size, rows.shape[1])
        kept, n = [rows[whole:]], n - whole
    if n:
        yield np.concatenate(kept)


def _incremental(blocks: Iterable[np.ndarray], n_features: int, n_comps: int) -> Components:
    """Incremental PCA of scikit-learn (Ross et al. 2008): each block updates the axes of those before.

    What an update drops is lost. Up to 8 q features nothing is dropped, and the result is that of all rows at once.
    With more, 4 q axes are carried from block to block, of which the first q are kept at the end, and blocks have as
    many rows, which costs least.
    """
    from sklearn.decomposition import IncrementalPCA

    wide = n_features > 8 * n_comps
    carried = 4 * n_comps if wide else n_features
    size = carried if wide else max(2 * carried, rows_per_block(n_features))
    full = complete_rows(blocks, size)
    first = next(full, np.empty((0, n_features)))
    check_n_comps("incremental", len(first), n_features, n_comps)  # it has enough rows, or it has them all
    model = IncrementalPCA(min(carried, len(first)))
    with np.errstate(invalid="ignore", divide="ignore"):  # ratios of no variance
        for rows in chain([first], full):
            model.partial_fit(rows)
    n = int(model.n_samples_seen_)
    total = float(model.var_.sum()) * n / (n - 1)
    axes = np.ascontiguousarray(model.components_[:n_comps].T)
    return Components(n, model.mean_, _signed(axes), model.explained_variance_[:n_comps], total)


def _probabilistic(blocks: Iterable[np.ndarray], n_features: int, n_comps: int) -> Components:
    """Probabilistic PCA in closed form, from the covariance matrix (Tipping & Bishop 1999)."""
    from scipy.linalg import eigh

    n, mean, scatter = moments(complete_rows(blocks, rows_per_block(n_features)), n_features)
    check_n_comps("probabilistic", n, n_features, n_comps)
    scatter /= n - 1
    total = float(np.trace(scatter))
    last = n_features - 1
    variance, axes = eigh(scatter, subset_by_index=[last - n_comps + 1, last], overwrite_a=True, check_finite=False)
    return Components(n, mean, _signed(axes[:, ::-1]), variance[::-1], total)


def _signed(axes: np.ndarray) -> np.ndarray:
    """Axes (d, q) whose entry of largest magnitude is positive: either sign would do, this is always the same."""
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])


def _posterior_scale(components: Components) -> np.ndarray:
    """Factor that makes projections posterior means of the latent variables.

    With W = U (Λ − σ²I)^½ and M = WᵀW + σ²I = Λ, the posterior mean M⁻¹Wᵀ(x − μ) is Λ⁻¹(Λ − σ²I)^½ Uᵀ(x − μ).
    """
    return np.sqrt(np.maximum(components.variance - components.noise_variance, 0)) / components.variance


def _log_likelihood(components: Components, centered: np.ndarray, projected: np.ndarray) -> np.ndarray:
    """Natural logarithm of the density of each row under N(μ, C) with C = WWᵀ + σ²I.

    C has the eigenvalues λ on the axes and σ² elsewhere: with y = Uᵀ(x − μ),

        −½ [d log 2π + Σ log λ + (d − q) log σ² + Σ y² / λ + (‖x − μ‖² − Σ y²) / σ²].
    """
    variance, noise = components.variance, components.noise_variance
    d, q = components.axes.shape
    within = (projected**2 / variance).sum(axis=1)
    beside = np.maximum((centered**2).sum(axis=1) - (projected**2).sum(axis=1), 0) / noise
    volume = d * np.log(2 * np.pi) + np.log(variance).sum() + (d - q) * np.log(noise)
    return -0.5 * (volume + within + beside)


METHODS = {
    "incremental": Method(_incremental, lambda components: np.ones(len(components.variance))),
    "probabilistic": Method(_probabilistic, _posterior_scale, _log_likelihood, MAX_SQUARE),
}
