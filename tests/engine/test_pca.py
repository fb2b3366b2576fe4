"""Principal components of rows that come in blocks, beside naive twins, scikit-learn, and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from scgeneformer._engine.statistics import pca
from scgeneformer._engine.statistics.moments import moments
from scgeneformer._errors import DataError


def blocks_of(rows, size):
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def slowly_decaying(n, d, exponent=0.3, seed=0):
    """Rows like an embedding: a mean that is large beside the spread, groups, standard deviations j^-exponent."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    groups = rng.integers(0, 8, n)
    rows = (rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -exponent) @ turn
    return rows + rng.normal(size=(8, d))[groups] * 0.3 + rng.normal(size=d) * 5, groups


def left_over(rows, mean, axes):
    """Squared error of the reconstruction from the axes."""
    centered = rows - mean
    return (centered**2).sum() - ((centered @ axes) ** 2).sum()


def best(rows, q):
    """Smallest error that q axes can have: full singular value decomposition."""
    return (np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[q:] ** 2).sum()


# --- moments --------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(1, 8), min_size=1, max_size=10), st.sampled_from([0.0, 1e6]))
def test_moments_are_those_of_all_rows_whatever_the_blocks(seed, sizes, offset):
    rows = np.random.default_rng(seed).normal(size=(sum(sizes), 4)) + offset
    n, mean, scatter = moments(np.split(rows, np.cumsum(sizes)[:-1]), 4)
    centered = rows - rows.mean(axis=0)
    assert n == len(rows)
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scatter, centered.T @ centered, atol=1e-12 + 1e-9 * bool(offset))


def test_no_row_has_moments_too():
    n, mean, scatter = moments([], 2)
    assert (n, mean.tolist(), scatter.tolist()) == (0, [0, 0], [[0, 0], [0, 0]])


# --- blocks ---------------------------------------------------------------------------------------------------------


def test_rows_with_nan_are_left_out_and_blocks_are_full():
    rows = np.arange(14.0).reshape(7, 2)
    rows[[0, 3], [1, 0]] = np.nan
    found = list(pca.complete_rows(blocks_of(rows, 3), 2))
    assert [block[:, 1].tolist() for block in found] == [[3, 5], [9, 11], [13]]
    assert list(pca.complete_rows([np.full((2, 2), np.nan)], 2)) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(list(pca.METHODS)), st.sampled_from([3, 8]))
def test_blocks_that_are_read_do_not_matter_to_the_bit(one, other, method, q):
    rows = slowly_decaying(60, 30)[0]
    rows[::7, 3] = np.nan
    found = [pca.fit(method, blocks_of(rows, size), 30, q) for size in (one, other)]
    for name in ("mean", "axes", "variance", "total_variance"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
    scores = [
        pca.project(method, found[0], zip(range(0, 60, size), blocks_of(rows, size), strict=True), 60)[0]
        for size in (one, other)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


@pytest.mark.parametrize("method", pca.METHODS)
@pytest.mark.parametrize("size", [1, 40, 1000])
def test_blocks_that_are_worked_on_do_not_matter(method, size, monkeypatch):
    rows = slowly_decaying(1500, 40)[0]
    monkeypatch.setattr(pca, "BLOCK_BYTES", 8 * 40 * size)
    found = pca.fit(method, [rows], 40, 10)
    exact = PCA(10, svd_solver="full").fit(rows)
    np.testing.assert_allclose(found.variance, exact.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(found.axes, exact.components_.T, atol=1e-6)


# --- both methods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", pca.METHODS)
def test_axes_and_variances_are_those_of_scikit_learn(method):
    rows = slowly_decaying(400, 40)[0]
    exact = PCA(12, svd_solver="full").fit(rows)
    found = pca.fit(method, blocks_of(rows, 90), 40, 12)
    assert found.n_rows == 400
    np.testing.assert_allclose(found.mean, exact.mean_, rtol=1e-12)
    np.testing.assert_allclose(found.axes, exact.components_.T, atol=1e-8)
    np.testing.assert_allclose(found.variance, exact.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(found.variance_ratio, exact.explained_variance_ratio_, rtol=1e-10)
    np.testing.assert_allclose(found.noise_variance, exact.noise_variance_, rtol=1e-10)
    np.testing.assert_allclose(found.total_variance, rows.var(axis=0, ddof=1).sum(), rtol=1e-12)


@pytest.mark.parametrize("method", pca.METHODS)
def test_the_largest_entry_of_each_axis_is_positive(method):
    axes = pca.fit(method, [slowly_decaying(300, 40)[0]], 40, 12).axes
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(12)] > 0).all()
    np.testing.assert_allclose(axes.T @ axes, np.eye(12), atol=1e-10)


@pytest.mark.parametrize("method", pca.METHODS)
def test_variances_are_good_for_float32_far_from_zero(method):
    rows = (slowly_decaying(400, 40)[0] + 3000).astype(np.float32).astype(np.float64)
    found = pca.fit(method, blocks_of(rows, 64), 40, 12)
    exact = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2 / 399
    np.testing.assert_allclose(found.variance, exact[:12], rtol=1e-8)
    np.testing.assert_allclose(found.total_variance, exact.sum(), rtol=1e-8)


@pytest.mark.parametrize(("method", "most"), [("incremental", 9), ("probabilistic", 8)])
def test_more_components_than_rows_or_features_are_refused(method, most):
    rows = np.random.default_rng(0).normal(size=(12, 30))
    rows[:2] = np.nan
    assert pca.fit(method, [rows], 30, most).axes.shape == (30, most)
    text = (
        rf"n_comps={most + 1} is too many for method='{method}': 10 rows of 30 features have at most {most} "
        rf"\(rows with a NaN do not count\)\. Give n_comps={most} or fewer\."
    )
    with pytest.raises(DataError, match=text):
        pca.fit(method, [rows], 30, most + 1)
    with pytest.raises(DataError, match=r": 0 rows of 30 features have at most 0 .* More cells or features are"):
        pca.fit(method, [rows[:2]], 30, 1)


@pytest.mark.parametrize("method", pca.METHODS)
@pytest.mark.parametrize("value", [0, 0.1, 1e9 / 3])
def test_rows_that_do_not_vary_are_refused(method, value):
    with pytest.raises(DataError, match="The 30 rows without NaN are all the same: there is no variance to find axes"):
        pca.fit(method, [np.full((30, 4), value)], 4, 2)


# --- incremental ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("order", ["shuffled", "by group", "by the first component"])
def test_error_of_reconstruction_is_near_the_smallest(exponent, order):
    """With so many features axes are dropped from block to block: 20 of 300, 80 carried, 80 rows a block."""
    rows, groups = slowly_decaying(2000, 300, exponent)
    first = PCA(1).fit_transform(rows)[:, 0]
    keys = {"shuffled": np.zeros(len(rows)), "by group": groups, "by the first component": first}
    rows = rows[np.argsort(keys[order], kind="stable")]
    found = pca.fit("incremental", blocks_of(rows, 300), 300, 20)
    assert 1 <= left_over(rows, found.mean, found.axes) / best(rows, 20) < 1.01
    np.testing.assert_allclose(found.total_variance, rows.var(axis=0, ddof=1).sum(), rtol=1e-10)


def test_a_last_block_of_one_row_does_no_harm():
    rows = slowly_decaying(161, 300)[0]
    found = pca.fit("incremental", [rows], 300, 20)
    assert left_over(rows, found.mean, found.axes) / best(rows, 20) < 1.06


def test_all_components_of_few_rows_leave_nothing_over():
    rows = slowly_decaying(30, 200)[0]
    found = pca.fit("incremental", [rows], 200, 29)
    assert left_over(rows, found.mean, found.axes) == pytest.approx(0, abs=1e-8 * rows.var())
    assert found.noise_variance == pytest.approx(0, abs=1e-10)


# --- probabilistic --------------------------------------------------------------------------------------------------


def test_four_points_by_hand():
    """Variances 8/3 and 2/3; σ² = 2/3, W = (√2, 0), M = 8/3, C = diag(8/3, 2/3)."""
    rows = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]]) + 7
    found = pca.fit("probabilistic", [rows], 2, 1)
    assert found.variance == pytest.approx([8 / 3])
    assert found.noise_variance == pytest.approx(2 / 3)
    scores, densities = pca.project("probabilistic", found, [(0, rows)], 4)
    np.testing.assert_allclose(scores[:, 0], np.array([2, -2, 0, 0]) * np.sqrt(2) * 3 / 8, atol=1e-6)
    inside, beside = -0.5 * 4 / (8 / 3), -0.5 / (2 / 3)
    expected = -np.log(2 * np.pi) - 0.5 * np.log(16 / 9) + np.array([inside, inside, beside, beside])
    np.testing.assert_allclose(densities, expected, rtol=1e-6)


def test_probabilistic_axes_are_those_of_the_formulas_of_tipping_and_bishop():
    rows, q = slowly_decaying(300, 20)[0], 6
    found = pca.fit("probabilistic", blocks_of(rows, 77), 20, q)
    covariance = np.cov(rows.T)
    values, vectors = np.linalg.eigh(covariance)
    noise = values[:-q].mean()
    w = found.axes @ np.diag(np.sqrt(found.variance - noise))
    np.testing.assert_allclose(w @ w.T, vectors[:, -q:] @ np.diag(values[-q:] - noise) @ vectors[:, -q:].T, atol=1e-8)
    assert found.noise_variance == pytest.approx(noise, rel=1e-10)
    posterior = np.linalg.solve(w.T @ w + noise * np.eye(q), w.T @ (rows - rows.mean(axis=0)).T).T
    density = multivariate_normal(rows.mean(axis=0), w @ w.T + noise * np.eye(20)).logpdf(rows)
    scores, densities = pca.project("probabilistic", found, [(0, rows)], 300)
    np.testing.assert_allclose(scores, posterior, atol=1e-5)
    np.testing.assert_allclose(densities, density, rtol=1e-6)
    np.testing.assert_allclose(densities, PCA(q, svd_solver="full").fit(rows).score_samples(rows), rtol=1e-6)


def test_no_other_noise_and_no_other_axes_are_likelier():
    """The closed form is a maximum, up to the divisor of the covariance: 300 in the paper, 299 here."""
    rows = slowly_decaying(300, 12)[0]
    found = pca.fit("probabilistic", [rows], 12, 4)
    w = found.axes * np.sqrt(found.variance - found.noise_variance)

    def likelihood(w, noise):
        return multivariate_normal(rows.mean(axis=0), w @ w.T + noise * np.eye(12)).logpdf(rows).mean()

    top = likelihood(w, found.noise_variance)
    rng = np.random.default_rng(0)
    assert all(likelihood(w + 0.1 * rng.normal(size=w.shape), found.noise_variance) < top for _ in range(20))
    assert all(likelihood(w, found.noise_variance * factor) < top for factor in (0.9, 1.1))


def test_rows_with_nan_are_nan():
    rows = slowly_decaying(50, 6)[0]
    rows[[4, 9], [0, 5]] = np.nan
    found = pca.fit("probabilistic", [rows], 6, 2)
    assert found.n_rows == 48
    scores, densities = pca.project("probabilistic", found, [(0, rows[:20]), (20, rows[20:])], 50)
    assert scores.dtype == densities.dtype == np.float32
    assert np.flatnonzero(np.isnan(scores).all(axis=1)).tolist() == [4, 9]
    assert (
        np.flatnonzero(np.isnan(scores).any(axis=1)).tolist() == np.flatnonzero(np.isnan(densities)).tolist() == [4, 9]
    )


def test_components_that_leave_nothing_for_the_noise_are_refused():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 8))
    text = r"n_comps=3 components hold all of the variance, and method='probabilistic' needs some beside them\. Give a"
    with pytest.raises(DataError, match=text):
        pca.fit("probabilistic", [rows], 8, 3)
    assert pca.fit("incremental", [rows], 8, 3).noise_variance == pytest.approx(0, abs=1e-12)
