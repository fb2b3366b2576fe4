import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal
from perturbed import KEY, STATE_KEYS, STATES, add_anchor, long, make_perturbed
from scipy import stats
from sklearn.mixture import GaussianMixture
from toys import make_adata, make_model

import scgeneformer as gf

UNS = "rank_perturbations"
TESTS = ["vs_null", "vs_null_unpaired", "goal", "mixture", "mean"]


@pytest.fixture
def adata():
    return make_perturbed()


def rank(adata, key=KEY, *, group=None, **options):
    """Frame of a ranking, by gene if there is one group."""
    done = gf.tl.rank_perturbations(adata, key, copy=True, **options)
    frame = gf.get.rank_perturbations_df(done, group)
    return frame.set_index("names") if frame["group"].nunique() == 1 else frame


def nearest(cell: pd.DataFrame, own: float, n: int) -> pd.DataFrame:
    """The nearest in rank of the rows of a cell, as many before as behind."""
    before = cell[cell["rank"] < own].sort_values("rank", ascending=False)
    behind = cell[cell["rank"] > own].sort_values("rank")
    k = min(n // 2, len(before), len(behind))
    return pd.concat([before[:k], behind[:k]])


def placed(frame: pd.DataFrame, null: pd.DataFrame, n: int) -> pd.DataFrame:
    """Placement and difference of every row that has nulls, by the definitions."""
    rows = []
    for row in frame.itertuples():
        others = nearest(null[null["cell"] == row.cell], row.rank, n)["shift"]
        if len(others):
            below = ((others < row.shift) + 0.5 * (others == row.shift)).mean()
            rows.append((row.cell, row.gene, row.shift, below - 0.5, row.shift - others.mean(), len(others)))
    return pd.DataFrame(rows, columns=["cell", "gene", "shift", "u", "difference", "m"])


# --- each test against scipy, scikit-learn and pandas ---------------------------------------------------------------


@pytest.mark.parametrize(("named", "n_null"), [(False, 10), (True, 2)], ids=["all genes", "sweep with matched genes"])
def test_vs_null_is_a_signed_rank_test_of_placements(named, n_null):
    asked = ["G3", "G4", "G12"] if named else None
    adata = make_perturbed(asked=asked)
    entries = long(adata)
    chosen = entries[entries["gene"].isin(asked)] if named else entries
    null = entries[~entries["gene"].isin(asked)] if named else entries
    found = rank(adata, n_null=n_null)
    by_hand = placed(chosen, null, n_null)
    assert set(found.index) == set(chosen["gene"])
    for gene, one in by_hand.groupby("gene"):
        row = found.loc[gene]
        assert row["effect"] == pytest.approx(one["difference"].mean())
        assert row["null_shift"] == pytest.approx((one["shift"] - one["difference"]).mean())
        assert row["placement"] == pytest.approx(one["u"].mean() + 0.5)
        assert row["n_cells_null"] == len(one)
        if (one["u"].abs() > 1e-9).sum() > 12:
            test = stats.wilcoxon(one["u"].round(9), method="approx")
            assert row["pvals"] == pytest.approx(test.pvalue, rel=1e-6)
        all_rows = chosen[chosen["gene"] == gene]
        assert row["shift"] == pytest.approx(all_rows["shift"].mean())
        assert row["rank"] == pytest.approx(all_rows["rank"].mean())
        assert row["n_cells"] == len(all_rows)
    np.testing.assert_allclose(found["pvals_adj"], stats.false_discovery_control(found["pvals"]))
    assert found["pvals"].is_monotonic_increasing


def test_vs_given_genes_compares_with_all_of_them_in_the_cell(adata):
    named = ["G8", "G9", "G10"]
    entries = long(adata)
    found = rank(adata, null=named)
    assert set(found.index) == set(adata.var_names) - set(named)
    null = entries[entries["gene"].isin(named)].groupby("cell")["shift"].apply(list)
    own = entries[entries["gene"] == "G2"]
    pairs = [(s, np.array(null[c])) for c, s in zip(own["cell"], own["shift"], strict=True) if c in null]
    assert found.loc["G2", "effect"] == pytest.approx(np.mean([s - others.mean() for s, others in pairs]))
    placements = [np.mean(others < s) - 0.5 for s, others in pairs]
    assert found.loc["G2", "placement"] == pytest.approx(np.mean(placements) + 0.5)
    expected = stats.wilcoxon(np.round(placements, 9), method="approx").pvalue
    assert found.loc["G2", "pvals"] == pytest.approx(expected)
    assert rank(adata, null="G8").index.nunique() == 29


def test_vs_random_is_near_all_others_of_the_cell(adata):
    found, entries = rank(adata, null="random", n_null=200), long(adata)
    own = entries[entries["gene"] == "G2"]
    cells = entries[entries["gene"] != "G2"].groupby("cell")["shift"].mean()
    expected = (own["shift"].to_numpy() - cells[own["cell"]].to_numpy()).mean()
    assert found.loc["G2", "effect"] == pytest.approx(expected)
    assert not rank(adata, null="random", seed=1)["effect"].equals(rank(adata, null="random", seed=2)["effect"])


def test_unpaired_is_the_reference_rank_sum_test(adata):
    named = ["G8", "G9", "G10"]
    found, entries = rank(adata, test="vs_null_unpaired", null=named), long(adata)
    null = entries[entries["gene"].isin(named)]["shift"]
    pvals = []
    for gene, row in found.iterrows():
        own = entries[entries["gene"] == gene]["shift"]
        assert row["effect"] == pytest.approx(own.mean() - null.mean())
        pvals.append(stats.ranksums(own, null).pvalue)
        assert (row["n_cells"], row["n_null"]) == (len(own), len(null))
    np.testing.assert_allclose(found["pvals"], pvals)
    np.testing.assert_allclose(found["pvals_adj"], stats.false_discovery_control(pvals))


def test_unpaired_takes_the_genes_matched_on_rank(adata):
    found, entries = rank(adata, test="vs_null_unpaired", n_null=4), long(adata)
    own = entries[entries["gene"] == "G11"]
    rows = [nearest(entries[entries["cell"] == c], r, 4) for c, r in zip(own["cell"], own["rank"], strict=True)]
    null = pd.concat(rows)["shift"]
    assert found.loc["G11", "n_null"] == len(null)
    assert found.loc["G11", "effect"] == pytest.approx(own["shift"].mean() - null.mean())
    assert found.loc["G11", "pvals"] == pytest.approx(stats.mannwhitneyu(own["shift"], null).pvalue, rel=0.02)


def test_a_p_value_that_cannot_be_computed_is_one_in_the_unpaired_test():
    adata = make_perturbed(shifts=lambda ranks, _: np.ones(ranks.shape))
    assert (rank(adata, test="vs_null_unpaired")["pvals"].dropna() == 1).all()


def test_goal_compares_with_all_genes_together(adata):
    found, entries = rank(adata, test="goal"), long(adata, KEY, *STATE_KEYS)
    for state, layer in zip(STATES, STATE_KEYS, strict=True):
        means = entries.groupby("gene")[layer].mean()
        np.testing.assert_allclose(found[f"shift_to_{state}"], means[found.index], atol=1e-12)
        expected = [stats.ranksums(entries[entries["gene"] == g][layer], entries[layer]).pvalue for g in found.index]
        np.testing.assert_allclose(found[f"pvals_to_{state}"], expected, rtol=1e-6)
        np.testing.assert_allclose(found[f"pvals_adj_to_{state}"], stats.false_discovery_control(expected), rtol=1e-6)
    for column in ("pvals", "pvals_adj"):
        assert found[column].equals(found[f"{column}_to_nf"].rename(column))
    assert found["effect"].tolist() == found["shift_to_nf"].tolist()
    keys = list(zip(found["pvals_adj"] < 0.05, found["effect"], strict=True))
    assert keys == sorted(keys, reverse=True)


def test_goal_of_a_sweep_compares_with_the_matched_genes_too(adata):
    all_genes = rank(adata, test="goal")
    adata.uns[KEY]["genes"] = np.array(["G3", "G4"], dtype=object)
    found = rank(adata, test="goal")
    assert set(found.index) == {"G3", "G4"}
    np.testing.assert_allclose(found["pvals"], all_genes.loc[found.index, "pvals"])


def test_goal_draws_from_many_shifts(adata, monkeypatch):
    from scgeneformer._engine.statistics import perturbation_tests as perturbation_statistics

    exact = rank(adata, test="goal")
    monkeypatch.setattr(perturbation_statistics, "POOL", 400)
    drawn, again, other = (rank(adata, test="goal", seed=seed).loc[exact.index, "pvals"] for seed in (0, 0, 1))
    assert drawn.equals(again)
    assert not drawn.equals(other)
    assert np.corrcoef(drawn, exact["pvals"])[0, 1] > 0.9


def test_mixture_is_that_of_the_reference_with_its_components_sorted():
    def two_kinds(ranks, rng):
        found = rng.normal(0.1, 0.02, ranks.shape)
        found[:, 3:9] += 0.3
        return found

    adata = make_perturbed(shifts=two_kinds)
    found, entries = rank(adata, test="mixture"), long(adata)
    cosines = 1 - entries.groupby("gene")["shift"].mean()[list(adata.var_names)]
    fitted = GaussianMixture(n_components=2, random_state=0).fit(cosines.to_numpy()[:, None])
    impact = fitted.means_.ravel().argmin()
    assert set(found.index[found["impact"] == 1]) == {f"G{i}" for i in range(3, 9)}
    for gene, row in found.iterrows():
        assert row["effect"] == pytest.approx(1 - cosines[gene])
        assert row["impact"] == (fitted.predict([[cosines[gene]]])[0] == impact)
        cells = 1 - entries[entries["gene"] == gene]["shift"].to_numpy()
        assert row["impact_share"] == pytest.approx((fitted.predict(cells[:, None]) == impact).mean(), abs=0.02)
    assert found["impact"].is_monotonic_decreasing


@pytest.mark.parametrize("scale", [1, 1e-6, 1e-17])
def test_mixture_finds_the_large_shifts_whatever_their_scale_or_order(scale):
    for largest in (slice(0, 5), slice(25, 30)):

        def shifts(ranks, rng, largest=largest):
            found = rng.normal(0.1, 0.005, ranks.shape)
            found[:, largest] += 0.1
            return scale * found

        found = rank(make_perturbed(shifts=shifts), test="mixture")
        assert set(found.index[found["impact"] == 1]) == {f"G{i}" for i in range(*largest.indices(30))}


def test_mixture_with_an_anchor_compares_with_the_sum(adata, log):
    add_anchor(adata)
    found = rank(adata, f"{KEY}_anchor", test="mixture")
    assert "G1" not in found.index
    joint, single = (adata.layers[k].toarray().astype(float) for k in (f"{KEY}_anchor", KEY))
    applies = adata.layers[f"{KEY}_anchor_rank"].toarray() > 0
    for gene, row in found.iterrows():
        i = list(adata.var_names).index(gene)
        some = applies[:, i]
        alone, anchor = single[some, i], single[some, 1]
        assert row["individual"] == pytest.approx(alone.mean())
        assert row["anchor"] == pytest.approx(anchor.mean())
        # in cosines: joint − (1 − ((1 − a) + (1 − t)))
        assert row["sum"] == pytest.approx(1 - (1 - ((1 - (1 - alone)) + (1 - (1 - anchor)))).mean())
        assert row["interaction"] == pytest.approx((joint[some, i] - alone - anchor).mean())
    drop_column(adata, f"{KEY}_anchor", "G1")
    pd.testing.assert_frame_equal(rank(adata, f"{KEY}_anchor", test="mixture"), found)
    drop_column(adata, KEY, "G1")
    assert rank(adata, f"{KEY}_anchor", test="mixture")["sum"].isna().all()
    del adata.layers[KEY]
    assert rank(adata, f"{KEY}_anchor", test="mixture")["interaction"].isna().all()
    assert "without anchor=, too" in log()
    assert "interaction" not in rank(adata, f"{KEY}_anchor", test="mean")


def drop_column(adata, key, gene):
    """Take the entries of a gene out of shifts and ranks."""
    for name in (key, f"{key}_rank"):
        layer = adata.layers[name].tocoo()
        kept = layer.col != adata.var_names.get_loc(gene)
        cells = np.concatenate([[0], np.cumsum(np.bincount(layer.row[kept], minlength=adata.n_obs))])
        adata.layers[name] = sp.csr_matrix((layer.data[kept], layer.col[kept], cells), shape=layer.shape)


def test_mean_is_mean_scatter_and_number(adata):
    found = rank(adata, test="mean")
    expected = long(adata).groupby("gene")["shift"].agg(["mean", "std", "count"]).loc[found.index]
    np.testing.assert_allclose(found["effect"], expected["mean"])
    np.testing.assert_allclose(found["sd"], expected["std"])
    np.testing.assert_array_equal(found["n_cells"], expected["count"])
    assert found["effect"].is_monotonic_decreasing


# --- combinations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["vs_null", "vs_null_unpaired"])
@pytest.mark.parametrize("null", ["random", ["G0 + G1", "G0 + G7"]], ids=["random", "named"])
def test_combinations_are_compared_with_combinations(adata, test, null):
    found = rank(adata, combinations=True, null=null, test=test)
    values = pd.DataFrame(adata.obsm[KEY], columns=adata.uns[KEY]["combinations"]).astype(float)
    assert found.index[0] == "G2 + G3"
    assert found["n_cells"].to_dict() == values.notna().sum()[found.index].to_dict()
    if null == "random":
        return
    own = values["G2 + G3"]
    expected = {
        "vs_null": (own - values[null].mean(axis=1)).mean(),
        "vs_null_unpaired": own.mean() - np.nanmean(values[null]),
    }
    assert found.loc["G2 + G3", "effect"] == pytest.approx(expected[test])


def test_combinations_have_goals_means_and_mixtures(adata):
    values = adata.obsm[KEY].astype(float)
    found = rank(adata, combinations=True, test="mean")
    np.testing.assert_allclose(found["effect"], np.sort(np.nanmean(values, axis=0))[::-1])
    found = rank(adata, combinations=True, test="goal")
    towards = adata.obsm[STATE_KEYS[1]].astype(float)
    own, pool = towards[:, 2], towards[~np.isnan(towards)]
    row = found.loc["G4 + G5 + G6"]
    assert row["effect"] == pytest.approx(np.nanmean(own))
    expected = stats.mannwhitneyu(own[~np.isnan(own)], pool, method="asymptotic", use_continuity=False)
    assert row["pvals"] == pytest.approx(expected.pvalue)  # its own shifts are in the pool, which makes ties
    found = rank(adata, combinations=True, test="mixture")
    assert found.index[found["impact"] == 1].tolist() == ["G2 + G3"]


def test_a_single_combination_has_means_only_and_is_taken_where_there_are_no_genes(adata):
    del adata.layers[KEY]
    adata.uns[KEY]["combinations"] = adata.uns[KEY]["combinations"][:1]
    for key in (KEY, *STATE_KEYS):
        adata.obsm[key] = adata.obsm[key][:, :1]
    found = rank(adata, test="goal")
    assert found.loc["G0 + G1", "effect"] == pytest.approx(np.nanmean(adata.obsm[STATE_KEYS[1]], dtype=float))
    assert found["pvals"].isna().all()


def test_two_combinations_are_compared_with_each_other(adata):
    del adata.layers[KEY]
    adata.uns[KEY]["combinations"] = adata.uns[KEY]["combinations"][:2]
    for key in (KEY, *STATE_KEYS):
        adata.obsm[key] = adata.obsm[key][:, :2]
    assert rank(adata, test="goal")["pvals"].notna().all()


# --- groups, donors, states -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", TESTS)
def test_a_group_is_ranked_as_if_it_were_alone(adata, test):
    together = rank(adata, test=test, groupby="cell_type")
    assert together["group"].unique().tolist() == ["CD4+/CD25 T Reg", "T cell"]
    for name, one in together.groupby("group"):
        alone = rank(adata[adata.obs["cell_type"] == name].copy(), test=test)
        pd.testing.assert_frame_equal(one.drop(columns="group").set_index("names"), alone.drop(columns="group"))
        assert rank(adata, test=test, groupby="cell_type", groups=name).index.tolist() == one["names"].tolist()


def donor_means(frame: pd.DataFrame, column: str, donors: np.ndarray) -> pd.DataFrame:
    return frame.assign(donor=donors[frame["cell"]]).groupby(["gene", "donor"])[column].mean().unstack()


def test_vs_null_over_donors_is_a_t_test_of_their_mean_placements(adata):
    donors, entries = adata.obs["donor"].to_numpy(str), long(adata)
    found = rank(adata, replicate="donor", min_cells=1)
    by_hand = placed(entries, entries, 10)
    by_hand["chance"] = (by_hand["m"] + 2) / (12 * by_hand["m"])
    means, effects, chance = (donor_means(by_hand, column, donors) for column in ("u", "difference", "chance"))
    n = by_hand.assign(donor=donors[by_hand["cell"]]).groupby(["gene", "donor"]).size().unstack()
    for gene, row in means.iterrows():
        known = row.dropna()
        assert found.loc[gene, "effect"] == pytest.approx(effects.loc[gene].mean())
        assert found.loc[gene, "n_replicates"] == len(known)
        if len(known) > 1:
            variance = max(known.var(), (chance.loc[gene] / n.loc[gene]).mean() / 4)
            t = known.mean() / np.sqrt(variance / len(known))
            assert found.loc[gene, "scores"] == pytest.approx(t)
            assert found.loc[gene, "pvals"] == pytest.approx(2 * stats.t.sf(abs(t), len(known) - 1))


def test_unpaired_and_goal_over_donors_are_paired_t_tests(adata):
    donors, entries = adata.obs["donor"].to_numpy(str), long(adata, KEY, *STATE_KEYS)
    named = ["G8", "G9", "G10"]
    found = rank(adata, test="vs_null_unpaired", null=named, replicate="donor")
    own = donor_means(entries, "shift", donors)
    rows = entries[entries["gene"].isin(named)]
    null = rows.groupby(donors[rows["cell"]])["shift"].mean()
    expected = stats.ttest_rel(own.loc["G2"], null)
    assert found.loc["G2", "pvals"] == pytest.approx(expected.pvalue)
    assert found.loc["G2", "effect"] == pytest.approx((own.loc["G2"] - null).mean())
    found = rank(adata, test="goal", replicate="donor")
    own, pool = donor_means(entries, STATE_KEYS[1], donors), entries.groupby(donors[entries["cell"]])[STATE_KEYS[1]]
    assert found.loc["G2", "pvals"] == pytest.approx(stats.ttest_rel(own.loc["G2"], pool.mean()).pvalue)
    assert found.loc["G2", "effect"] == pytest.approx(own.loc["G2"].mean())


def test_donors_with_effects_of_their_own_deceive_the_cells_and_not_the_donors():
    """Each donor has its own effect of each gene: no gene differs from others of its rank in donors in general."""

    def shifts(ranks, rng):
        own = np.exp(rng.normal(0, 0.5, (6, 40)))[np.resize(np.arange(6), len(ranks))]
        return own * rng.gamma(4, 0.25, ranks.shape) / (1 + ranks / 20)

    cells, donors = [], []
    for seed in range(4):
        adata = make_perturbed(240, 40, shifts=shifts, seed=seed)
        cells.append((rank(adata)["pvals"] < 0.05).mean())
        donors.append((rank(adata, replicate="donor")["pvals"] < 0.05).mean())
    assert np.mean(cells) > 0.3
    assert np.mean(donors) < 0.09


def test_shifts_towards_a_state_can_be_compared_within_cells(adata):
    found = rank(adata, state="nf")
    adata.layers[KEY].data[:] = adata.layers[STATE_KEYS[1]].data
    pd.testing.assert_frame_equal(found, rank(adata))


# --- rank -----------------------------------------------------------------------------------------------------------


def test_the_correlation_with_rank_is_stored_and_warned_of(adata, log):
    gf.tl.rank_perturbations(adata, test="mean", groupby="cell_type")
    table = gf.get.rank_perturbations_df(adata)
    expected = [stats.spearmanr(one["effect"], one["rank"]).statistic for _, one in table.groupby("group")]
    np.testing.assert_allclose(adata.uns[UNS]["rank_correlation"], expected)
    assert min(expected) < -0.7
    assert "rank explains most of this ranking" in log()


@pytest.mark.parametrize("n_genes", [19, 20])
def test_few_perturbations_are_not_warned_of(n_genes, log):
    gf.tl.rank_perturbations(make_perturbed(n_genes=n_genes, density=1.0), test="mean")
    assert ("explains most" in log()) == (n_genes == 20)


@pytest.mark.parametrize("positions", ["shift", "hold"])
@pytest.mark.parametrize("test", ["mean", "vs_null"])
def test_what_was_done_against_the_rank_is_not_advised(adata, log, test, positions, monkeypatch):
    monkeypatch.setattr("scgeneformer.tl._rank_perturbations.STRONG", 0)
    adata.uns[KEY]["params"]["positions"] = positions
    gf.tl.rank_perturbations(adata, test=test)
    told = log()
    assert "explains most of this ranking." in told
    assert ("test='vs_null' with null='rank'" in told) == (test == "mean")
    assert ("positions='hold' in gf.tl.perturb" in told) == (positions == "shift")


def test_matching_on_rank_takes_the_rank_out(adata, log):
    gf.tl.rank_perturbations(adata)
    assert abs(adata.uns[UNS]["rank_correlation"][0]) < 0.5
    assert "explains most" not in log()


def test_genes_that_are_not_in_the_cell_are_matched_with_others_that_are_not():
    def shifts(ranks, rng):
        return np.where(ranks > 0, 1, 0) + rng.gamma(2, 0.1, ranks.shape)

    found = rank(make_perturbed(300, everywhere=True, shifts=shifts))
    assert (found["n_cells"] == 300).all()
    assert found["effect"].abs().max() < 0.05
    assert (found["pvals"] < 0.01).sum() < 3


# --- storage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", TESTS)
def test_the_order_of_cells_and_a_repeated_call_change_nothing(adata, test):
    options = {"test": test, "null": "random"} if "null" in test else {"test": test}
    one = rank(adata, **options)
    other = rank(adata[np.random.default_rng(0).permutation(adata.n_obs)].copy(), **options)
    pd.testing.assert_frame_equal(one, other, rtol=1e-9)
    pd.testing.assert_frame_equal(one, rank(adata, **options))


def test_genes_that_share_a_token_count_once(adata):
    doubled = ad.AnnData(adata.X[:, [*range(30), 4, 4]], obs=adata.obs)
    doubled.var_names = [*adata.var_names, "alias", "alias2"]
    for name, layer in adata.layers.items():
        doubled.layers[name] = layer[:, [*range(30), 4, 4]]
    doubled.uns[KEY] = {"params": adata.uns[KEY]["params"]}
    found, before = rank(doubled), rank(adata)
    pd.testing.assert_frame_equal(found.drop(index=["alias", "alias2"]), before)
    for name in ("alias", "alias2"):
        assert found.loc[name].equals(found.loc["G4"])


@pytest.mark.parametrize(("test", "how"), [*((test, "h5ad") for test in TESTS), ("goal", "zarr")])
def test_results_survive_files(adata, tmp_path, how, test):
    gf.tl.rank_perturbations(adata, test=test, groupby=["cell_type", "donor"], min_cells=1)
    path = tmp_path / f"a.{how}"
    getattr(adata, f"write_{how}")(path)
    read = getattr(ad, f"read_{how}")(path)
    assert_equal(read, adata)
    pd.testing.assert_frame_equal(gf.get.rank_perturbations_df(read), gf.get.rank_perturbations_df(adata))
    gf.tl.rank_perturbations(read, test=test, groupby=["cell_type", "donor"], min_cells=1)
    pd.testing.assert_frame_equal(gf.get.rank_perturbations_df(read), gf.get.rank_perturbations_df(adata))


def test_params_say_what_was_done(adata):
    gf.tl.rank_perturbations(adata, null=["G8", "G9"], groupby="cell_type", replicate="donor", key_added="mine")
    stored = adata.uns["mine"]
    params = stored["params"]
    assert (params["key"], params["test"], params["replicate"]) == (KEY, "vs_null", "donor")
    assert params["null"].tolist() == ["G8", "G9"]
    assert stored["perturbation"]["mode"] == "delete"
    assert stored["names"].shape == stored["pvals"].shape == (28, 2)
    assert "state" not in params


def test_too_few_cells_have_no_p_value(adata):
    counts = rank(adata, test="mean")["n_cells"]
    found = rank(adata, min_cells=36)
    assert found["pvals"].isna().equals(found["n_cells_null"] < 36)
    assert found["pvals_adj"].isna().equals(found["pvals"].isna())
    assert found["effect"].notna().all()
    found = rank(adata, test="goal", min_cells=36)
    assert found["pvals"].isna().equals(counts[found.index] < 36)


def test_what_is_the_unit_is_said(adata, log):
    gf.tl.rank_perturbations(adata, replicate="donor")
    assert "unit of the test" not in log()
    gf.tl.rank_perturbations(adata)
    assert "the unit of the test is the cell" in log()
    assert "overwritten: uns['rank_perturbations']" in log()


def test_a_group_with_one_cell_is_warned_of(adata, log):
    adata.obs["few"] = ["one", *["many"] * 59]
    found = rank(adata, groupby="few")
    assert found[found["group"] == "one"]["pvals"].isna().all()
    assert found[found["group"] == "many"]["pvals"].notna().any()
    assert "fewer than 2 cells have a shift in 'one': what is told of them rests on one, if on any" in log()


# --- what gf.tl.perturb really writes --------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["shift", "hold"])
@pytest.mark.parametrize("test", ["vs_null", "vs_null_unpaired", "mixture", "mean"])
def test_a_scan_of_all_genes_can_be_ranked(scanned, positions, test):
    key = KEY if positions == "shift" else f"{KEY}_hold"
    found = rank(scanned, key, test=test, n_null=4)
    assert len(found) == 40
    layer = scanned.layers[key].tocsc()
    column = layer[:, scanned.var_names.get_loc("G5")]
    assert found.loc["G5", "shift"] == pytest.approx(column.data.mean(dtype=float))
    assert found.loc["G5", "n_cells"] == column.nnz


@pytest.fixture(scope="module")
def scanned():
    adata = make_adata(24)
    with gf.settings.override(progress=False):
        gf.tl.perturb(adata, model=make_model(), positions="both")
    return adata


def test_a_sweep_with_matched_genes_can_be_ranked(toy):
    adata = make_adata(24)
    gf.tl.perturb(adata, ["G1", "G5"], "overexpress", model=toy, n_matched=4)
    found = rank(adata, "geneformer_overexpress", n_null=4)
    assert set(found.index) == {"G1", "G5"}
    assert found["pvals"].notna().all()


def test_goals_combinations_and_anchors_can_be_ranked(toy):
    adata = make_adata(24)
    states = {"column": "cell_type", "start": "B", "goal": "T cell", "alternatives": ["CD4+/CD25 T Reg"]}
    gf.tl.perturb(adata, ["G1", "G5", "G7", ("G1", "G5"), ("G1", "G7")], model=toy, goal=states)
    for combinations in (False, True):
        found = rank(adata, test="goal", combinations=combinations, min_cells=1)
        key = f"{KEY}_to_T_cell"
        sums = np.nansum(adata.obsm[key] if combinations else adata.layers[key].toarray())
        assert (found["effect"] * found["n_cells"]).sum() == pytest.approx(sums, abs=1e-5)
        assert "shift_to_CD4+/CD25 T Reg" in found
    gf.tl.perturb(adata, ["G1", "G5", "G7"], model=toy)
    gf.tl.perturb(adata, ["G5", "G7"], model=toy, anchor="G1")
    found = rank(adata, f"{KEY}_anchor", test="mixture", min_cells=1)
    assert set(found.index) == {"G5", "G7"}
    np.testing.assert_allclose(found["interaction"], found["shift"] - found["sum"], atol=1e-6)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"key": "nope"}, r"under the key 'nope'; there are: 'geneformer_delete'.*gf\.tl\.perturb"),
        ({"test": "nope"}, "choose one of 'vs_null', 'vs_null_unpaired', 'goal', 'mixture', 'mean'"),
        ({"null": ["G1", "nope"]}, r"null=\['nope'\] were not perturbed; names that were: 'G0'"),
        ({"null": "nope"}, r"null=\['nope'\] were not perturbed"),
        ({"null": []}, "names no perturbation"),
        ({"null": [f"G{i}" for i in range(30)]}, "none is left"),
        ({"n_null": 1}, "n_null=1 must be a whole number of at least 2"),
        ({"min_cells": 0}, "min_cells=0"),
        ({"seed": -1}, "seed=-1"),
        ({"state": "nope"}, "the states are: 'dcm / failing', 'nf', 'hcm'"),
        ({"state": "nf", "test": "goal"}, "has all states"),
        ({"combinations": True}, "combinations have no rank. Take others, null='random'"),
        ({"combinations": True, "null": "G1"}, "names that were: 'G0 \\+ G1'"),
        ({"groupby": "nope"}, "groupby='nope' is no column"),
        ({"groupby": "cell_type", "groups": "nope"}, r"groups='nope' does not exist; the groups are: 'CD4\+"),
        ({"groups": "B"}, "names groups of no column"),
        ({"replicate": "nope"}, "replicate='nope' is no column.*'cell_type', 'donor'"),
        ({"replicate": "donor", "test": "mean"}, "groupby='donor'"),
        ({"replicate": "one"}, "fewer than 2 replicates"),
        ({"groupby": "each"}, "fewer than 2 cells have a shift in each of the groups"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused_and_nothing_is_written(adata, bad, text):
    adata.obs["one"], adata.obs["each"] = "x", adata.obs_names
    before = adata.copy()
    with pytest.raises(gf.DataError, match=text):
        gf.tl.rank_perturbations(adata, **bad)
    assert_equal(adata, before)


def test_one_cell_is_refused(adata):
    with pytest.raises(gf.DataError, match="fewer than 2 cells have a shift"):
        gf.tl.rank_perturbations(adata[:1].copy(), test="mean")


def test_no_goal_states_are_refused_with_the_remedy(adata):
    del adata.uns[KEY]["states"]
    for options in ({"test": "goal"}, {"state": "nf"}):
        with pytest.raises(gf.DataError, match="holds no goal states"):
            gf.tl.rank_perturbations(adata, **options)


def test_a_sweep_without_matched_genes_has_no_null():
    named = ["G3", "G4", "G12"]
    adata = make_perturbed(asked=named, perturbed=named)
    for test in ("vs_null", "vs_null_unpaired"):
        with pytest.raises(gf.DataError, match=r"Run gf\.tl\.perturb with n_matched=10"):
            gf.tl.rank_perturbations(adata, test=test)
    assert rank(adata, null="G3").index.nunique() == 2


def test_nulls_on_one_side_only_are_none():
    adata = make_perturbed(asked=["G3", "G4"], perturbed=["G3", "G4", "G12"])
    ranks = adata.layers[f"{KEY}_rank"]
    ranks.data[ranks.indices == 12] = 100
    with pytest.raises(gf.DataError, match="at ranks before and behind the gene"):
        gf.tl.rank_perturbations(adata)
    assert rank(adata, null="random")["pvals"].notna().all()


def test_layers_that_do_not_belong_together_are_refused(adata):
    adata.layers[f"{KEY}_rank"].data[:5] = 0
    adata.layers[f"{KEY}_rank"].eliminate_zeros()
    with pytest.raises(gf.DataError, match="Explicit zeros are entries"):
        gf.tl.rank_perturbations(adata)
    adata.layers[KEY] = adata.layers[KEY].toarray()
    with pytest.raises(gf.DataError, match="is dense"):
        gf.tl.rank_perturbations(adata)
    del adata.layers[f"{KEY}_rank"]
    with pytest.raises(gf.DataError, match="does not exist"):
        gf.tl.rank_perturbations(make_without_rank())


def make_without_rank():
    adata = make_perturbed()
    del adata.layers[f"{KEY}_rank"]
    return adata


def test_reading_what_is_not_there_is_refused(adata):
    with pytest.raises(gf.DataError, match=r"Run gf\.tl\.rank_perturbations"):
        gf.get.rank_perturbations_df(adata)
    gf.tl.rank_perturbations(adata, groupby="cell_type")
    with pytest.raises(gf.DataError, match=r"group='nope' does not exist.*'T cell'"):
        gf.get.rank_perturbations_df(adata, "nope")
    with pytest.raises(gf.DataError, match="names no group"):
        gf.get.rank_perturbations_df(adata, [])
