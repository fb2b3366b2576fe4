from itertools import combinations

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from scgeneformer._engine.statistics.gene_context import compare, contrasts, pooled_pvalues, pvalues, rotations

D = 8


def cosine_distance(x, y):
    return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def statistic_by_hand(group, reference):
    """Effect and score from the mean embeddings of the replicates, pair by pair."""
    between = np.mean([cosine_distance(x, y) for x in group for y in reference])
    within = [np.mean([cosine_distance(x, y) for x, y in combinations(side, 2)]) for side in (group, reference)]
    effect = between - sum(within) / 2
    return effect, effect / (within[0] / len(group) + within[1] / len(reference)) * 2


def simulate(rng, n, m, n_genes, *, cells=(20, 20), scatter=(1, 1), common=0.0, shifted=0, d=D):
    """Sums of replicates whose means scatter, by `common` alike in all genes; the first `shifted` genes differ."""
    center = rng.normal(size=(n_genes, d)) + 3
    sides = []
    for i, (size, n_cells, much) in enumerate(zip((n, m), cells, scatter, strict=True)):
        own = rng.normal(size=(size, n_genes, d)) * 0.3
        means = center + much * (own + common * rng.normal(size=(size, 1, d)))
        if i == 0:
            means[:, :shifted] += rng.choice([-1, 1], (shifted, d))
        counts = np.full((size, n_genes), n_cells)
        sides.append((means * n_cells, counts))
    return sides


def turned_by_hand(units, n, ratio, rotation):
    """Squared distance of the means, w_A and w_B of replicates, (n + m, d), once their scaled contrasts are turned."""
    m = len(units) - n
    variance = np.array([ratio / n + 1 / m] + [ratio] * (n - 1) + [1] * (m - 1))
    turned = rotation @ (contrasts(n, m) @ units / np.sqrt(variance)[:, None])
    squares = variance * (turned**2).sum(axis=1)
    return squares[0], squares[1:n].mean(), squares[n:].mean()


def score_by_hand(apart, w_a, w_b, n, m):
    return apart / (w_a / n + w_b / m) - 1


def p_by_hand(scores, null):
    """Share of the null that reaches each score; of the genes that are not found at first, the second time."""

    def share(rows):
        return np.array([(1 + (null[rows] >= score).sum()) / (1 + null[rows].size) for score in scores])

    first = share(slice(None))
    unchanged = false_discovery_control(first) >= 0.05
    return share(unchanged) if unchanged.any() else first


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (4, 4)])
def test_everything_equals_brute_force_over_rotations(n, m):
    group, reference = simulate(np.random.default_rng(0), n, m, 7, shifted=3, scatter=(2, 1))
    found = compare(group, reference, n_rotations=30)
    units = np.concatenate([group[0], reference[0]]).transpose(1, 0, 2)
    units /= np.linalg.norm(units, axis=2, keepdims=True)
    for gene in range(7):
        effect, score = statistic_by_hand(units[gene, :n], units[gene, n:])
        np.testing.assert_allclose([found.effect[gene], found.score[gene]], [effect, score], rtol=1e-9)
    w_a, w_b = (side.var(axis=1, ddof=1).sum() for side in (units[:, :n], units[:, n:]))
    gaussian = np.random.default_rng((0, n, m)).normal(size=(30, n + m - 1, n))
    null = np.array(
        [
            [
                score_by_hand(*turned_by_hand(one, n, w_a / w_b, np.linalg.qr(some, mode="complete")[0].T), n, m)
                for some in gaussian
            ]
            for one in units
        ]
    )
    np.testing.assert_allclose(found.pvals, p_by_hand(found.score, null), atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (6, 4)])
def test_replicates_that_trade_places_are_a_rotation_of_the_contrasts(n, m):
    scaled = contrasts(n, m) / np.sqrt([1 / n + 1 / m] + [1] * (n + m - 2))[:, None]
    np.testing.assert_allclose(scaled @ scaled.T, np.eye(n + m - 1), atol=1e-12)
    traded = scaled[:, np.random.default_rng(0).permutation(n + m)] @ scaled.T
    np.testing.assert_allclose(traded @ traded.T, np.eye(n + m - 1), atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5)])
def test_a_rotation_keeps_what_is_expected_without_a_difference(n, m):
    apart, w_a, w_b = rotations(n, m, 4.0, 4000, np.random.default_rng(0)).mean(axis=1)
    variance = [4 / n + 1 / m] + [4] * (n - 1) + [1] * (m - 1)
    for form, expected in ((apart, 4 / n + 1 / m), (w_a, 4), (w_b, 1)):
        # any contrast goes to any other with equal chances
        np.testing.assert_allclose(np.diag(form) * variance, expected / (n + m - 1), rtol=0.1)


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
    assert (found.pvals > 0.05).all()


def test_the_effect_is_zero_on_average_without_a_difference():
    found = compare(*simulate(np.random.default_rng(1), 3, 4, 4000, d=32))
    assert abs(found.effect.mean()) < 4 * found.effect.std() / np.sqrt(4000)
    assert (found.effect < 0).mean() > 0.4


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 3), (3, 3), (3, 6), (5, 5), (8, 8)])
@pytest.mark.parametrize("common", [0.0, 0.3], ids=["independent genes", "genes that move together"])
@pytest.mark.parametrize("scatter", [(1, 1), (1, 0.3)], ids=["alike", "a small mixed group"])
def test_p_values_without_a_difference_are_uniform_on_average_over_data_sets(n, m, common, scatter):
    rng = np.random.default_rng(0)
    runs = [compare(*simulate(rng, n, m, 60, common=common, scatter=scatter), n_rotations=100).pvals for _ in range(60)]
    assert 0.4 < np.mean(runs) < 0.6
    # genes that move together cross 0.05 together: sixty data sets are then hardly more than sixty p-values
    assert 0.02 < np.mean([(p < 0.05).mean() for p in runs]) < (0.065 if common == 0 else 0.09)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 6), (5, 5)])
def test_planted_differences_are_found_and_the_others_are_not(n, m):
    found = compare(*simulate(np.random.default_rng(2), n, m, 300, shifted=30))
    assert (found.pvals_adj[:30] < 0.05).mean() > 0.95
    assert (found.pvals_adj[30:] < 0.05).mean() < 0.02
    assert found.effect[:30].min() > found.effect[30:].max()


def test_many_differences_do_not_hide_each_other():
    found = compare(*simulate(np.random.default_rng(2), 3, 3, 300, shifted=200))
    assert (found.pvals_adj[:200] < 0.05).mean() > 0.95
    assert (found.pvals_adj[200:] < 0.05).mean() < 0.1


def test_genes_found_at_first_are_left_out_of_the_null():
    scores, null = np.array([9.0, 1.0, 2.0, 0.5]), np.tile(np.linspace(0, 3, 100), (4, 1))
    null[0, :3] = 8, 8, 20  # a gene with a difference has large scores under rotation, too
    assert pvalues(scores, null)[0] == 1 / 301
    np.testing.assert_array_equal(pvalues(scores, null), pooled_pvalues(scores, null[1:]))
    everything = np.full(4, 9.0)
    np.testing.assert_array_equal(pvalues(everything, null), pooled_pvalues(everything, null))


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


def test_a_single_replicate_cannot_be_tested():
    single = simulate(np.random.default_rng(0), 1, 3, 4)
    found = compare(*single)
    assert np.isnan(found.pvals_adj).all()


def test_blocks_of_genes_change_nothing(monkeypatch):
    sides = simulate(np.random.default_rng(0), 3, 4, 12)
    whole = compare(*sides, n_rotations=50)
    monkeypatch.setattr("scgeneformer._engine.statistics.gene_context.BLOCK", 1)
    blocks = compare(*sides, n_rotations=50)
    for name in ("effect", "score", "pvals", "pvals_adj"):
        np.testing.assert_allclose(getattr(blocks, name), getattr(whole, name), rtol=1e-9)


def test_the_null_follows_the_seed():
    sides = simulate(np.random.default_rng(0), 4, 4, 20)
    one, again, other = (compare(*sides, seed=seed).pvals for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_pooled_p_values_count_the_null_that_reaches_the_score():
    null = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert pooled_pvalues(np.array([0.0, 2.0, 4.0, 5.0]), null).tolist() == [1.0, 0.8, 0.4, 0.2]
