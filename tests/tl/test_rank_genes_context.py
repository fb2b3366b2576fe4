import anndata as ad
import numpy as np
import pytest
import torch
from anndata.tests.helpers import assert_equal
from toys import make_adata, make_bert, make_model

import scgeneformer as gf
from scgeneformer._adata.gene_context_frame import context_frame

KEY = "rank_genes_context"
COLUMNS = ["group", "names", "effect", "scores", "pvals", "pvals_adj", "n_cells", "n_cells_reference", "n_replicates"]


def frame(adata, group=None, key=KEY):
    return context_frame(adata, group, key)


@pytest.fixture
def adata():
    """48 cells of three types and four donors."""
    adata = make_adata(48)
    adata.obs["donor"] = np.resize(["a", "b", "c", "d", "e"], 48)
    return adata


def gene_states(adata, model, layer):
    """(gene, cell, state) of every gene in every cell, from the stock model."""
    done = gf.tl.tokenize(adata, model, copy=True)
    stock, vocabulary = make_bert(model.vocabulary), model.vocabulary
    found = []
    for cell, tokens in enumerate(done.obsm["geneformer_tokens"].astype(np.int64)):
        tokens = tokens[tokens > 0]
        with torch.no_grad():
            hidden = stock(torch.tensor(tokens[None]), output_hidden_states=True).hidden_states[layer][0]
        for position in range(vocabulary.n_lead, len(tokens) - vocabulary.n_trail):
            gene = adata.var_names[tokens[position] - vocabulary.tokens[0]]
            found.append((gene, cell, hidden[position].double().numpy()))
    return found


def gene_means(states, label_of_cell):
    """Mean state of each gene in the cells of each label, and their number."""
    together = {}
    for gene, cell, state in states:
        together.setdefault((gene, label_of_cell[cell]), []).append(state)
    return {key: (np.mean(each, axis=0), len(each)) for key, each in together.items()}


def distance(x, y):
    return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def effect_by_hand(group, reference):
    def within(side):
        return np.mean([distance(x, y) for i, x in enumerate(side) for y in side[:i]])

    return np.mean([distance(x, y) for x in group for y in reference]) - (within(group) + within(reference)) / 2


@pytest.mark.parametrize("layer", [0, -2, 3])
@pytest.mark.parametrize("reference", ["rest", "T cell"])
def test_effects_equal_brute_force_over_the_stock_model(adata, model, layer, reference):
    gf.tl.rank_genes_context(
        adata, "cell_type", model=model, replicate="donor", layer=layer, reference=reference, min_cells=1
    )
    kind, donor = (adata.obs[c].astype(str).to_numpy() for c in ("cell_type", "donor"))
    states = gene_states(adata, model, layer)
    for group in set(kind) - {reference}:
        other = (kind != group) if reference == "rest" else kind == reference
        side = np.where(kind == group, 0, np.where(other, 1, 2))
        means = gene_means(states, list(zip(side, donor, strict=True)))
        for row in frame(adata, group).itertuples():
            sides = [[means[row.names, (s, d)] for d in "abcde" if (row.names, (s, d)) in means] for s in (0, 1)]
            assert row.n_replicates == len(sides[0])
            assert (row.n_cells, row.n_cells_reference) == tuple(sum(n for _, n in one) for one in sides)
            if min(map(len, sides)) < 2:
                assert np.isnan(row.effect)
                continue
            expected = effect_by_hand(*([mean for mean, _ in one] for one in sides))
            assert row.effect == pytest.approx(expected, abs=2e-5)


def test_the_result_is_what_scanpy_users_know_sorted_and_adjusted(adata, toy):
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, n_replicates=3, min_cells=1)
    stored = adata.uns[KEY]
    assert stored["groups"].tolist() == ["B", "CD4+/CD25 T Reg", "T cell"]
    assert stored["names"].shape == stored["pvals"].shape == (40, 3)
    table = frame(adata)
    assert table.columns.tolist() == COLUMNS
    for _, one in table.groupby("group"):
        assert one["pvals"].is_monotonic_increasing
        assert set(one["names"]) == set(adata.var_names)
        assert (one["pvals_adj"].dropna() >= one["pvals"].dropna()).all()
        assert one["pvals"].dropna().between(0, 1).all()
    assert frame(adata, "B").equals(table[table["group"] == "B"].reset_index(drop=True))
    assert frame(adata, ["T cell", "B"])["group"].unique().tolist() == ["T cell", "B"]
    params = stored["params"]
    assert (params["model"], params["layer"], params["reference"], params["n_replicates"]) == ("toy", 2, "rest", 3)
    assert "replicate" not in params


def context_changes(n_cells=160, n_genes=40):
    """Genes 0 to 9 are alike in all cells; the rest of a cell of group B are other genes than in group A."""
    adata = make_adata(n_cells, n_genes)
    rng = np.random.default_rng(0)
    counts = np.zeros((n_cells, n_genes), dtype=np.float32)
    counts[:, :10] = 1 + np.arange(10) + rng.integers(0, 4, (n_cells, 10))
    group = np.resize(["A", "B"], n_cells)
    for i, name in enumerate(group):
        pool = np.arange(10, 17) if name == "A" else np.arange(25, 32)
        counts[i, rng.choice(pool, 6, replace=False)] = rng.integers(20, 40, 6)
    adata.X = counts
    adata.obs["group"] = group
    adata.obs["donor"] = np.char.add(group, (np.arange(n_cells) // 2 % 4).astype(str))
    return adata


@pytest.mark.parametrize("replicate", [None, "donor"])
def test_a_context_that_changes_is_found(replicate):
    adata, model = context_changes(320), make_model()
    gf.tl.rank_genes_context(adata, "group", model=model, reference="A", replicate=replicate)
    table = frame(adata).dropna()
    assert set(table["names"]) == {f"G{i}" for i in range(10)}
    assert (table["pvals_adj"] < 0.05).mean() > 0.8
    assert (table["effect"] > 0).all()


@pytest.mark.parametrize("replicate", [None, "sample"])
def test_labels_at_random_give_p_values_near_uniform(replicate):
    """Mean over 20 data sets of the share of p-values below 0.05: between 0.01 and 0.10."""
    model, shares, middles = make_model(), [], []
    for seed in range(20):
        adata = context_changes()
        rng = np.random.default_rng(seed)
        adata.obs["label"] = rng.permutation(np.resize(["x", "y"], adata.n_obs))
        adata.obs["sample"] = adata.obs["label"].astype(str) + rng.integers(0, 4, adata.n_obs).astype(str)
        gf.tl.rank_genes_context(adata, "label", model=model, reference="y", replicate=replicate, layer=1, seed=seed)
        p = frame(adata)["pvals"].dropna()
        shares.append((p < 0.05).mean())
        middles.append((p < 0.5).mean())
    assert 0.01 < np.mean(shares) < 0.10
    assert 0.35 < np.mean(middles) < 0.65


@pytest.mark.parametrize("tokens_per_batch", [1, 100_000])
def test_batches_order_of_rows_and_cells_of_other_groups_change_nothing(adata, toy, tokens_per_batch):
    options = {"model": toy, "n_replicates": 3, "min_cells": 1, "reference": "B", "groups": ["T cell"]}
    one = frame(gf.tl.rank_genes_context(adata, "cell_type", copy=True, **options)).set_index("names")
    shuffled = adata[np.random.default_rng(0).permutation(48)].copy()
    gf.tl.rank_genes_context(shuffled, "cell_type", tokens_per_batch=tokens_per_batch, **options)
    other = frame(shuffled).set_index("names").loc[one.index]
    np.testing.assert_allclose(other["effect"], one["effect"], atol=1e-6)
    np.testing.assert_array_equal(other["n_cells"], one["n_cells"])


def test_cells_that_no_comparison_needs_are_not_run(adata, toy, monkeypatch):
    from scgeneformer._engine import forward

    run, original = [], forward.hidden_states
    monkeypatch.setattr(
        forward, "hidden_states", lambda bert, packed, layers: run.append(packed) or original(bert, packed, layers)
    )
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, groups="B", reference="T cell", min_cells=1)
    assert sum(len(packed.lengths) for packed in run) == 32


def test_the_seed_decides_the_splits(adata, toy):
    found = [
        gf.tl.rank_genes_context(adata, "cell_type", model=toy, n_replicates=3, min_cells=1, seed=s, copy=True)
        for s in (0, 0, 1)
    ]
    assert frame(found[0]).equals(frame(found[1]))
    assert not frame(found[0]).equals(frame(found[2]))


def test_several_layers_have_a_key_each_and_equal_single_calls(adata, toy):
    options = {"model": toy, "n_replicates": 3, "min_cells": 1}
    gf.tl.rank_genes_context(adata, "cell_type", layer=[1, -1], **options)
    gf.tl.rank_genes_context(adata, "cell_type", layer=1, key_added="mine", **options)
    assert {"rank_genes_context_L1", "rank_genes_context_L3", "mine"} <= set(adata.uns)
    assert frame(adata, key="rank_genes_context_L1").equals(frame(adata, key="mine"))


def test_genes_that_share_a_token_share_the_result_and_unknown_genes_are_left_out(adata, toy):
    ids = adata.var["ensembl_id"].to_numpy(object)
    ids[1], ids[2] = ids[0], "ENSG99999999999"
    adata.var["ensembl_id"] = ids
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, n_replicates=3, min_cells=1)
    table = frame(adata, "B").set_index("names")
    assert len(table) == 39
    assert "G2" not in table.index
    assert table.loc["G0"].equals(table.loc["G1"])


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_results_survive_files(adata, toy, tmp_path, how):
    gf.tl.rank_genes_context(adata, ["cell_type", "donor"], model=toy, n_replicates=2, min_cells=1)
    path = tmp_path / f"a.{how}"
    getattr(adata, f"write_{how}")(path)
    read = getattr(ad, f"read_{how}")(path)
    assert_equal(read, adata)
    assert frame(read).equals(frame(adata))


def test_random_splits_are_said_to_be_cells_and_donors_are_not(adata, toy, log):
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, replicate="donor", min_cells=1)
    assert "random splits" not in log()
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, min_cells=1)
    assert "5 random splits of the cells of each group: cells, not donors" in log()
    assert "overwritten: uns['rank_genes_context']" in log()


def test_untestable_groups_are_warned_of(adata, toy, log):
    adata.obs["donor"] = np.where(adata.obs["cell_type"] == "B", "a", adata.obs["donor"])
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, replicate="donor", min_cells=1)
    assert "not compared (NaN), with less than 2 replicates (values of 'donor') on a side: 'B'" in log()
    assert frame(adata, "B")["pvals"].isna().all()
    assert frame(adata, "T cell")["pvals"].notna().any()
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, min_cells=1000)
    assert "no gene is in 1000 cells of two replicates on both sides (all NaN). Lower min_cells= or n_repli" in log()
    assert "replicates=, or compare larger groups." in log()
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, replicate="donor", min_cells=1000)
    assert "(all NaN). Lower min_cells=, or compare larger groups." in log()
    assert frame(adata)["pvals"].isna().all()


def test_missing_labels_and_donors_count_nowhere(adata, toy, log):
    one = adata[8:].copy()
    adata.obs["donor"] = adata.obs["donor"].where(np.arange(48) >= 4)
    adata.obs["cell_type"] = adata.obs["cell_type"].where(np.arange(48) < 4, adata.obs["cell_type"])
    adata.obs.loc[adata.obs_names[4:8], "cell_type"] = np.nan
    for each in (adata, one):
        gf.tl.rank_genes_context(each, "cell_type", model=toy, replicate="donor", min_cells=1)
    assert frame(adata)["n_cells"].tolist() == frame(one)["n_cells"].tolist()
    np.testing.assert_allclose(frame(adata)["effect"], frame(one)["effect"], atol=1e-9)
    assert "4 of 48 cells have no label in donor" in log()


@pytest.fixture
def unchanged(adata):
    before = adata.copy()
    yield adata
    assert_equal(adata, before)


def test_a_copy_leaves_the_original_alone(unchanged, toy):
    assert KEY in gf.tl.rank_genes_context(unchanged, "cell_type", model=toy, min_cells=1, copy=True).uns


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"groupby": "nope"}, "groupby='nope' is no column.*'cell_type', 'donor'"),
        ({"groupby": []}, "no column.*'cell_type', 'donor'"),
        ({"replicate": "nope"}, "replicate='nope' is no column.*'cell_type', 'donor'"),
        ({"reference": "nope"}, "neither 'rest' nor a group; the groups are: 'B'"),
        ({"reference": "B", "groups": ["B", "T cell"]}, "reference='B' is one of the groups"),
        ({"groups": ["nope", "B"]}, r"groups='nope' does not exist"),
        ({"groups": []}, "names no group"),
        ({"n_replicates": 1}, "at least 2"),
        ({"n_rotations": 0}, "n_rotations=0"),
        ({"min_cells": 0}, "min_cells=0"),
        ({"min_cells": None}, "min_cells=None"),
        ({"seed": -1}, "seed=-1"),
        ({"replicate": "cell_type"}, "both sides need at least 2 replicates"),
        ({"layer": 4}, "hidden layers 0"),
        ({"counts_layer": "nope"}, "the layers are: none"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused_and_nothing_is_written(unchanged, toy, bad, text):
    with pytest.raises(gf.DataError, match=text):
        gf.tl.rank_genes_context(unchanged, **({"groupby": "cell_type", "model": toy} | bad))


def test_groups_may_be_numbers(adata, toy):
    adata.obs["number"] = np.resize([1, 2, 10], 48)
    gf.tl.rank_genes_context(adata, "number", model=toy, groups=10, reference=2, min_cells=1)
    assert set(frame(adata, 10)["group"]) == set(frame(adata, [10])["group"]) == {"10"}


def test_one_group_or_one_named_rest_is_refused(adata, toy):
    adata.obs["one"], adata.obs["two"] = "x", np.resize(["rest", "x"], 48)
    with pytest.raises(gf.DataError, match="nothing to compare"):
        gf.tl.rank_genes_context(adata, "one", model=toy)
    with pytest.raises(gf.DataError, match="Rename the group"):
        gf.tl.rank_genes_context(adata, "two", model=toy)


def test_reading_what_is_not_there_is_refused(adata, toy):
    with pytest.raises(gf.DataError, match=r"Run gf\.tl\.rank_genes_context"):
        frame(adata)
    gf.tl.rank_genes_context(adata, "cell_type", model=toy, min_cells=1)
    with pytest.raises(gf.DataError, match=r"group='nope' does not exist.*'CD4\+/CD25 T Reg'"):
        frame(adata, "nope")
