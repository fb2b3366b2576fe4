import numpy as np
import pytest
import scipy.sparse as sp
from perturbed import make_ranks, noisy

from scgeneformer._engine.statistics.null_perturbations import NULLS, compare_within_cells
from scgeneformer._engine.statistics.rank_tests import signed_rank
from scgeneformer._engine.statistics.shift_table import ShiftTable, distinct_columns


def make_table(ranks, shifts, applies=None):
    columns, cells = np.nonzero((ranks > 0 if applies is None else applies).T)
    nothing = np.empty((len(cells), 0))
    return ShiftTable(cells, columns, shifts[cells, columns], ranks[cells, columns], nothing, nothing, ranks.shape[1])


def partners(tested, null, kind, n_null, seed=0):
    """Rows of `null` that each row of `tested` is compared with."""
    found = [[] for _ in range(len(tested))]
    for rows, others in NULLS[kind](tested, null, n_null, seed):
        assert len(set(rows.tolist())) == len(rows)
        for row, other in zip(rows.tolist(), others.tolist(), strict=True):
            found[row].append(other)
    return found


@pytest.fixture
def ranks():
    return make_ranks(20, 25, 0.6, np.random.default_rng(0))


@pytest.mark.parametrize("named", [False, True], ids=["all genes", "others than the tested"])
def test_rank_takes_as_many_before_as_behind_the_nearest_first(ranks, named):
    table = make_table(ranks, noisy(ranks, np.random.default_rng(1)))
    tested = table.where(table.columns % 3 == 0) if named else table
    null = table.where(table.columns % 3 > 0) if named else table
    for row, found in enumerate(partners(tested, null, "rank", 6)):
        cell, rank = tested.cells[row], tested.ranks[row]
        same = np.flatnonzero(null.cells == cell)
        before = sorted(r for r in null.ranks[same] if r < rank)[::-1]
        behind = sorted(r for r in null.ranks[same] if r > rank)
        k = min(3, len(before), len(behind))
        assert (null.cells[found] == cell).all()
        assert sorted(null.ranks[found]) == sorted(before[:k] + behind[:k])


def test_rank_compares_genes_that_are_not_in_the_cell_with_others_that_are_not(ranks):
    table = make_table(ranks, noisy(ranks, np.random.default_rng(1)), np.ones_like(ranks, dtype=bool))
    for row, found in enumerate(partners(table, table, "rank", 4)):
        if table.ranks[row] == 0:
            absent = ((table.cells == table.cells[row]) & (table.ranks == 0)).sum()
            assert len(set(found) - {row}) == min(4, absent - 1)
            assert (table.ranks[found] == 0).all()
            assert (table.cells[found] == table.cells[row]).all()
        else:
            assert (table.ranks[found] > 0).all()


@pytest.mark.parametrize("named", [False, True], ids=["all genes", "others than the tested"])
def test_random_draws_others_of_the_cell_without_replacement_and_evenly(named):
    ranks = np.tile(np.arange(1, 9), (400, 1))
    table = make_table(ranks, ranks * 1.0)
    tested = table.where(table.columns == 0)
    null = table.where(table.columns > 0) if named else table
    found = partners(tested, null, "random", 3)
    assert all(len(set(some)) == 3 for some in found)
    assert all((null.cells[some] == cell).all() for some, cell in zip(found, tested.cells, strict=True))
    times = np.bincount(null.columns[np.concatenate(found)], minlength=8)
    assert times[0] == 0
    assert times.sum() == 1200
    assert ((times[1:] > 120) & (times[1:] < 225)).all()
    assert found != partners(tested, null, "random", 3, seed=1)


def test_given_takes_all_others_of_the_cell(ranks):
    table = make_table(ranks, ranks * 1.0)
    tested, null = table.where(table.columns == 3), table.where(np.isin(table.columns, [3, 5, 6, 7]))
    for row, found in enumerate(partners(tested, null, "given", 2)):
        expected = np.flatnonzero((null.cells == tested.cells[row]) & (null.columns != 3))
        assert sorted(found) == expected.tolist()


@pytest.mark.parametrize("kind", NULLS)
def test_placement_is_the_share_of_smaller_nulls_with_ties_as_halves(ranks, kind):
    shifts = noisy(ranks, np.random.default_rng(1)).round(2)
    table = make_table(ranks, shifts)
    null = table.where(table.columns % 2 == 0)
    found = compare_within_cells(table, null, kind, 4, 0)
    for row, some in enumerate(partners(table, null, kind, 4)):
        others, own = null.values[some], table.values[row]
        assert found.n[row] == len(some)
        if not some:
            assert np.isnan([found.placement[row], found.mean[row]]).all()
            continue
        share = np.mean([(own > other) + 0.5 * (own == other) for other in others])
        assert found.placement[row] == pytest.approx(share - 0.5)
        assert found.mean[row] == pytest.approx(others.mean())


def pvalues(shifts, seed, test="placement", n_cells=120, n_genes=60):
    """P-values of all genes under null="rank", for shifts made from ranks."""
    rng = np.random.default_rng(seed)
    ranks = make_ranks(n_cells, n_genes, 0.6, rng)
    table = make_table(ranks, shifts(np.maximum(ranks, 1).astype(float), rng))
    found = compare_within_cells(table, table, "rank", 10, 0)
    kept = found.n > 0
    values = found.placement if test == "placement" else table.values - found.mean
    return signed_rank(table.columns[kept], values[kept], n_genes)[1]


FALLING = {"linear": lambda r: 1 - r / 100, "exponential": lambda r: np.exp(-r / 20), "1/rank": lambda r: 1 / r}


@pytest.mark.parametrize("name", FALLING)
def test_the_rank_alone_makes_no_gene_significant(name):
    assert (pvalues(lambda r, _: FALLING[name](r), 0) == 1).all()
    assert (pvalues(lambda r, _: -FALLING[name](r), 0) == 1).all()


@pytest.mark.parametrize("name", ["linear", "exponential"])
def test_shifts_of_the_rank_and_skewed_noise_give_uniform_p_values(name):
    """Shares below 0.05 and 0.5 over 12 data sets of 60 genes; the difference from the mean of the nulls fails."""

    def shifts(ranks, rng):
        return FALLING[name](ranks) * rng.lognormal(0, 1, ranks.shape)

    p = np.concatenate([pvalues(shifts, seed) for seed in range(12)])
    assert 0.03 < (p < 0.05).mean() < 0.07
    assert 0.45 < (p < 0.5).mean() < 0.55
    p = np.concatenate([pvalues(shifts, seed, "difference") for seed in range(12)])
    assert (p < 0.05).mean() > 0.2


def test_a_gene_that_shifts_more_than_its_rank_is_found():
    def shifts(ranks, rng):
        found = np.exp(-ranks / 20) * rng.lognormal(0, 1, ranks.shape)
        found[:, 30] *= 2
        return found

    p = pvalues(shifts, 0)
    assert p[30] < 1e-6
    assert p.argmin() == 30


def test_equal_columns_are_one_and_empty_ones_none():
    dense = np.array([[1.0, 1, 0, 2, 1], [0, 0, 0, 3, 5]])
    matrix = sp.csc_matrix(dense)
    first, place = distinct_columns(matrix)
    assert first.tolist() == [0, 3, 4]
    assert place.tolist() == [0, 0, -1, 1, 2]
    other = sp.csc_matrix((np.arange(6.0), matrix.indices, matrix.indptr), matrix.shape)
    assert distinct_columns(matrix, other)[1].tolist() == [0, 1, -1, 2, 3]


def test_the_table_has_means_and_scatter_of_columns():
    ranks = np.array([[1, 2, 0], [1, 0, 0], [2, 1, 3]])
    table = make_table(ranks, np.array([[0.1, 0.2, 9], [0.3, 9, 9], [0.5, 0.6, 0.7]]))
    assert table.n_cells.tolist() == [3, 2, 1]
    np.testing.assert_allclose(table.means(table.values), [0.3, 0.4, 0.7])
    np.testing.assert_allclose(table.sds(table.values), [0.2, np.std([0.2, 0.6], ddof=1), np.nan])
    np.testing.assert_allclose(table.mean_ranks, [4 / 3, 1.5, 3])
    assert table.starts.tolist() == [0, 3, 5, 6]
