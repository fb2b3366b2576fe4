import numpy as np
import pytest
from scipy import stats

from scgeneformer._engine.statistics.rank_tests import RankSum, adjust, one_sample_t, signed_rank


@pytest.mark.parametrize("decimals", [8, 1, 0], ids=["no ties", "ties", "many ties"])
@pytest.mark.parametrize("n", [1, 4, 50])
def test_rank_sum_is_that_of_scipy(n, decimals):
    rng = np.random.default_rng(n)
    pool = rng.normal(size=200).round(decimals)
    test = RankSum(pool).test
    for shift in (0, 0.5, -2):
        values = rng.normal(shift, size=n).round(decimals)
        z, p = test(values)
        expected = stats.mannwhitneyu(values, pool, method="asymptotic", use_continuity=False)
        assert p == pytest.approx(expected.pvalue, rel=1e-9)
        assert np.sign(z) == np.sign(expected.statistic - n * 100)
        if decimals == 8:
            assert (z, p) == pytest.approx(stats.ranksums(values, pool), rel=1e-9)


def test_rank_sum_without_values_or_variance_is_nan():
    for values, pool in ([], [1.0]), ([1.0], []), ([1.0, 1.0], [1.0, 1.0]):
        assert np.isnan(RankSum(np.array(pool)).test(np.array(values))).all()


@pytest.mark.parametrize("decimals", [8, 1], ids=["no ties", "ties and zeros"])
def test_signed_rank_is_that_of_scipy(decimals):
    rng = np.random.default_rng(0)
    sizes = [1, 2, 5, 9, 12, 30, 200]
    samples = [rng.normal(0.2, size=n).round(decimals) for n in sizes]
    shuffled = rng.permutation(sum(sizes))
    columns = np.repeat(np.arange(len(sizes)), sizes)[shuffled]
    z, p = signed_rank(columns, np.concatenate(samples)[shuffled], len(sizes) + 1)
    for i, values in enumerate(samples):
        if (values != 0).sum() <= 12:
            rank = stats.rankdata(np.abs(values[values != 0]))
            signs = np.array(np.meshgrid(*[[-1, 1]] * len(rank))).reshape(len(rank), -1)
            null, own = np.abs(rank @ signs), abs((np.sign(values[values != 0]) * rank).sum())
            assert p[i] == pytest.approx((null >= own - 1e-9).mean())
            if decimals == 8:
                assert p[i] == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)
        else:
            assert p[i] == pytest.approx(stats.wilcoxon(values, method="approx").pvalue, rel=1e-9)
        assert np.sign(z[i]) == np.sign((np.sign(values) * stats.rankdata(np.abs(values)) * (values != 0)).sum())
    assert np.isnan(z[-1])
    assert np.isnan(p[-1])


def test_signed_rank_of_zeros_is_one():
    z, p = signed_rank(np.array([0, 0, 2]), np.zeros(3), 3)
    np.testing.assert_array_equal(z, [0, np.nan, 0])
    np.testing.assert_array_equal(p, [1, np.nan, 1])
    assert signed_rank(np.empty(0, int), np.empty(0), 0)[0].shape == (0,)


def test_one_sample_t_is_that_of_scipy_with_a_floor():
    values = np.random.default_rng(0).normal(size=(4, 6))
    values[0, :2] = values[1, 1:] = np.nan
    values[3] = 0.5
    t, p, n = one_sample_t(values)
    for i in (0, 2):
        known = values[i][~np.isnan(values[i])]
        assert (t[i], p[i]) == pytest.approx(tuple(stats.ttest_1samp(known, 0)))
    assert np.isnan(p[[1, 3]]).all()
    assert n.tolist() == [4, 1, 6, 6]
    t, p, _ = one_sample_t(values, np.full(4, 0.24))
    assert t[3] == pytest.approx(0.5 / np.sqrt(0.24 / 6))
    assert p[3] == pytest.approx(2 * stats.t.sf(t[3], 5))
    assert t[2] == pytest.approx(values[2].mean() / np.sqrt(values[2].var(ddof=1) / 6))


def test_adjustment_leaves_out_what_was_not_tested():
    p = np.array([0.01, np.nan, 0.04, 0.5])
    np.testing.assert_allclose(adjust(p), [0.03, np.nan, 0.06, 0.5])
    assert np.isnan(adjust(np.full(2, np.nan))).all()
