from itertools import combinations

import numpy as np
import pytest

from scgeneformer._engine.context import compare, labelings, n_labelings, pooled_pvalues

D = 8


def cosine_distance(x, y):
    return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def statistic_by_hand(group, reference):
    """Effect and score from the mean embeddings of the replicates, pair by pair."""
    between = np.mean([cosine_distance(x, y) for x in group for y in reference])
    within = [np.mean([cosine_distance(x, y) for x, y in combinations(side, 2)]) for side in (group, reference)]
    effect = between - sum(within) / 2
    return effect, effect / (within[0] / len(group) + within[1] / len(reference)) * 2


def simulate(rng, n, m, n_genes, *, cells=(20, 20), common=0.0, shifted=0, d=D):
    """Sums of replicates whose means scatter, by `common` alike in all genes; the first `shifted` genes differ."""
    center = rng.normal(size=(n_genes, d)) + 3
    sides = []
    for i, (size, n_cells) in enumerate(zip((n, m), cells, strict=True)):
        own = rng.normal(size=(size, n_genes, d)) * 0.3
        means = center + own + common * rng.normal(size=(size, 1, d))
        if i == 0:
            means[:, :shifted] += rng.choice([-1, 1], (shifted, d))
        counts = np.full((size, n_genes), n_cells)
        sides.append((means * n_cells, counts))
    return sides


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (4, 4)])
def test_everything_equals_brute_force_over_labelings(n, m):
    group, reference = simulate(np.random.default_rng(0), n, m, 7, shifted=3)
    found = compare(group, reference)
    units = np.concatenate([group[0] / 20, reference[0] / 20])
    null, observed = [], []
    for gene in range(7):
        effect, score = statistic_by_hand(units[:n, gene], units[n:, gene])
        np.testing.assert_allclose([found.effect[gene], found.score[gene]], [effect, score], rtol=1e-9)
        observed.append(score)
        for chosen in combinations(range(n + m), n):
            others = [i for i in range(n + m) if i not in chosen]
            if chosen == tuple(range(n)) or (n == m and others == list(range(n))):
                continue
            null.append(statistic_by_hand(units[list(chosen), gene], units[others, gene])[1])
    null = np.array(null)
    expected = [(1 + (null >= score - 1e-9).sum()) / (1 + len(null)) for score in observed]
    np.testing.assert_allclose(found.pvals, expected, atol=3 / len(null) if n == m else 1e-12)
    assert found.n_labelings == n_labelings(n, m)


def test_the_effect_is_one_minus_the_cosine_where_replicates_agree_and_the_number_of_cells_does_not_matter():
    x, y = np.array([1.0, 2, 3]), np.array([3.0, 1, -1])
    cells = np.array([[1], [5]])
    sides = [(cells[..., None] * v, cells) for v in (x, y)]
    assert compare(*sides).effect[0] == pytest.approx(cosine_distance(x, y))


def test_identical_replicates_have_no_effect_and_no_score():
    same = np.ones((3, 4, D)), np.ones((3, 4), dtype=int)
    found = compare(same, same)
    np.testing.assert_allclose(found.effect, 0, atol=1e-12)
    assert np.abs(found.score).max() < 1e-4
    assert (found.pvals > 0.2).all()


def test_the_effect_is_zero_on_average_without_a_difference():
    found = compare(*simulate(np.random.default_rng(1), 3, 4, 4000, d=32))
    assert abs(found.effect.mean()) < 4 * found.effect.std() / np.sqrt(4000)
    assert (found.effect < 0).mean() > 0.4


@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 3), (3, 6), (5, 5), (8, 8)])
@pytest.mark.parametrize("common", [0.0, 0.3], ids=["independent genes", "genes that move together"])
def test_p_values_without_a_difference_are_uniform_on_average_over_data_sets(n, m, common):
    rng = np.random.default_rng(0)
    runs = [compare(*simulate(rng, n, m, 60, common=common), n_permutations=100).pvals for _ in range(60)]
    below = np.mean(runs, axis=1)
    assert 0.4 < below.mean() < 0.6
    # with few labelings genes that move together cross 0.05 together, more often than 1 in 20: at most as often as the
    # true labeling is the most extreme one
    limit = 0.07 if common == 0 else max(0.09, 1.5 / (1 + n_labelings(n, m)))
    assert np.mean([(p < 0.05).mean() for p in runs]) < limit
    assert np.mean([(p < 0.05).mean() for p in runs]) > 0.02


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 6), (5, 5)])
def test_planted_differences_are_found_and_the_others_are_not(n, m):
    found = compare(*simulate(np.random.default_rng(2), n, m, 300, shifted=30))
    assert (found.pvals_adj[:30] < 0.05).mean() > 0.95
    assert (found.pvals_adj[30:] < 0.05).mean() < 0.02
    assert found.effect[:30].min() > found.effect[30:].max()


def test_replicates_with_too_few_cells_of_a_gene_do_not_count_for_it():
    group, reference = simulate(np.random.default_rng(3), 4, 4, 5)
    group[1][0, 1] = 2  # a replicate less for gene 1
    group[1][:3, 2] = 0  # a single one for gene 2
    reference[1][:, 3] = 1  # none for gene 3
    found = compare(group, reference, min_cells=3)
    assert found.n_replicates.tolist() == [4, 3, 1, 4, 4]
    assert np.isnan(found.pvals).tolist() == [False, False, True, True, False]
    assert np.isnan(found.pvals_adj).tolist() == np.isnan(found.effect).tolist() == np.isnan(found.pvals).tolist()
    without = compare(tuple(x[1:] for x in group), reference)
    assert found.effect[1] == pytest.approx(without.effect[1])
    assert found.n_cells.tolist() == group[1].sum(axis=0).tolist()
    assert found.n_cells_reference.tolist() == reference[1].sum(axis=0).tolist()


def test_nothing_is_testable():
    single = simulate(np.random.default_rng(0), 1, 3, 4)
    found = compare(*single)
    assert np.isnan(found.pvals_adj).all()
    assert found.n_labelings == 0


def test_blocks_of_genes_change_nothing(monkeypatch):
    sides = simulate(np.random.default_rng(0), 3, 4, 50)
    whole = compare(*sides)
    monkeypatch.setattr("scgeneformer._engine.context.BLOCK", 1)
    for name in ("effect", "score", "pvals", "pvals_adj"):
        np.testing.assert_allclose(getattr(compare(*sides), name), getattr(whole, name), rtol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 4), (3, 3), (5, 4)])
def test_all_labelings_are_there_once_the_true_one_first(n, m):
    found = labelings(n, m, 1000, 0)
    assert found[0].tolist() == [1] * n + [0] * m
    assert (found.sum(axis=1) == n).all()
    assert len(np.unique(found, axis=0)) == len(found) == 1 + n_labelings(n, m)
    if n == m:
        assert not {tuple(row) for row in found} & {tuple(1 - row) for row in found}


def test_random_labelings_follow_the_seed_and_leave_out_the_true_one():
    one, again, other = (labelings(6, 6, 100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert (one.sum(axis=1) == 6).all()
    assert len(one) <= 101
    assert not (one[1:] == one[0]).all(axis=1).any()


def test_pooled_p_values_count_the_null_that_reaches_the_score():
    null = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert pooled_pvalues(np.array([0.0, 2.0, 4.0, 5.0]), null).tolist() == [1.0, 0.8, 0.4, 0.2]
