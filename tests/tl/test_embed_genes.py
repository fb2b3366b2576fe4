import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_bert

import scgeneformer as gf
from scgeneformer._errors import OutOfMemoryError

AGGREGATES = {"mean": np.mean, "median": np.median, "var": np.var}
LABELS = ["B", "CD4+/CD25 T Reg", "T cell"]


def states_by_hand(adata, model, layer):
    """Hidden states of the stock BertModel, cell by cell: (row, column of var) -> (d,) float64."""
    tokenized = gf.tl.tokenize(adata, model, copy=True)
    stock, vocabulary = make_bert(model.vocabulary), model.vocabulary
    column = dict(zip(vocabulary.tokens.tolist(), range(adata.n_vars), strict=True))
    found = {}
    for row, tokens in enumerate(tokenized.obsm["geneformer_tokens"].astype(np.int64)):
        tokens = tokens[tokens > 0]
        if not len(tokens):
            continue
        with torch.no_grad():
            states = stock(torch.tensor(tokens[None]), output_hidden_states=True).hidden_states[layer][0]
        for token, state in zip(tokens.tolist(), states, strict=True):
            if token in column:
                found[row, column[token]] = state.double().numpy()
    return found


def by_hand(states, adata, cells, agg):
    """Aggregate over the given cells, and how many of them contain each gene."""
    rows = [[states[i, j] for i in cells if (i, j) in states] for j in range(adata.n_vars)]
    nothing = np.full(16, np.nan)
    return np.array([AGGREGATES[agg](r, axis=0) if r else nothing for r in rows]), np.array([len(r) for r in rows])


def cells_of(adata, label, column="cell_type"):
    return np.flatnonzero(adata.obs[column].astype(str) == label)


@pytest.mark.parametrize("agg", AGGREGATES)
@pytest.mark.parametrize("layer", [-2, -1, 0])
def test_genes_equal_brute_force_over_the_stock_model(adata, model, layer, agg):
    gf.tl.embed_genes(adata, model, layer=layer, groupby="cell_type", agg=agg)
    states = states_by_hand(adata, model, layer)
    expected, n_cells = by_hand(states, adata, range(adata.n_obs), agg)
    found = adata.varm["geneformer"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(adata.varm["geneformer_n_cells"][:, 0], n_cells)
    assert adata.uns["geneformer_cell_type"]["groups"].tolist() == LABELS
    for i, label in enumerate(LABELS):
        expected, n_cells = by_hand(states, adata, cells_of(adata, label), agg)
        np.testing.assert_allclose(adata.varm["geneformer_cell_type"][:, i], expected, atol=1e-5)
        np.testing.assert_array_equal(adata.varm["geneformer_cell_type_n_cells"][:, i], n_cells)


def test_means_are_good_to_a_millionth_of_their_norm(toy):
    adata = make_adata(600)
    gf.tl.embed_genes(adata, toy, genes=["G1", "G2"], per_cell=True)
    cells = adata.obsm["geneformer_genes"].astype(np.float64)
    expected = np.nanmean(cells, axis=0)
    error = np.linalg.norm(adata.varm["geneformer"][1:3] - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-6


@pytest.mark.parametrize("agg", AGGREGATES)
@pytest.mark.parametrize("tokens_per_batch", [1, 37])
def test_the_numbers_do_not_depend_on_the_batches(adata, model, agg, tokens_per_batch):
    one = gf.tl.embed_genes(adata, model, agg=agg, groupby="donor", copy=True)
    other = gf.tl.embed_genes(adata, model, agg=agg, groupby="donor", copy=True, tokens_per_batch=tokens_per_batch)
    for key in ("geneformer", "geneformer_donor"):
        np.testing.assert_allclose(one.varm[key], other.varm[key], atol=3e-6)


@pytest.mark.parametrize("agg", ["mean", "median"])
def test_the_numbers_do_not_depend_on_the_order_of_cells_and_genes(adata, toy, agg):
    rows, columns = np.random.default_rng(0).permutation(12), np.random.default_rng(1).permutation(40)
    one = gf.tl.embed_genes(adata, toy, agg=agg, groupby="cell_type", copy=True)
    other = gf.tl.embed_genes(adata[rows, columns].copy(), toy, agg=agg, groupby="cell_type", copy=True)
    np.testing.assert_allclose(other.varm["geneformer_cell_type"], one.varm["geneformer_cell_type"][columns], atol=3e-6)


def test_cells_without_a_label_count_among_all_cells_only(adata, toy, log):
    everything = gf.tl.embed_genes(adata, toy, copy=True)
    adata.obs.loc[["cell0", "cell5"], "cell_type"] = np.nan
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("unused")
    gf.tl.embed_genes(adata, toy, groupby="cell_type")
    assert "2 of 12 cells have no label in cell_type" in log()
    assert adata.uns["geneformer_cell_type"]["groups"].tolist() == LABELS
    assert adata.uns["geneformer_cell_type"]["labels"]["n_cells"].tolist() == [3, 4, 3]
    np.testing.assert_allclose(adata.varm["geneformer"], everything.varm["geneformer"], atol=1e-6)
    in_groups = adata.varm["geneformer_cell_type_n_cells"].sum(axis=1)
    assert (in_groups <= adata.varm["geneformer_n_cells"][:, 0]).all()
    assert (in_groups < adata.varm["geneformer_n_cells"][:, 0]).any()


def test_several_layers_and_columns_come_from_one_pass(adata, toy, monkeypatch):
    from scgeneformer._engine import forward

    cells, original = [], forward.hidden_states
    monkeypatch.setattr(
        forward,
        "hidden_states",
        lambda bert, packed, layers: (cells.extend(packed.lengths), original(bert, packed, layers))[1],
    )
    gf.tl.embed_genes(adata, toy, layer=[-1, 1], groupby=["cell_type", "donor"], key_added="g")
    assert len(cells) == adata.n_obs
    assert set(adata.varm) == {"g_L1", "g_L3", "g_n_cells"} | {
        f"g_cell_type_donor{suffix}" for suffix in ("_L1", "_L3", "_n_cells")
    }
    stored = adata.uns["g_cell_type_donor_L1"]
    assert adata.varm["g_cell_type_donor_L1"].shape == (40, 6, 16)
    assert stored["labels"].loc["CD4+/CD25 T Reg | b", ["cell_type", "donor"]].tolist() == ["CD4+/CD25 T Reg", "b"]
    single = gf.tl.embed_genes(make_adata(), toy, layer=1, copy=True)
    np.testing.assert_allclose(adata.varm["g_L1"], single.varm["geneformer"], atol=1e-6)
    assert (adata.uns["g_L1"]["params"]["layer"], stored["params"]["agg"]) == (1, "mean")


@pytest.mark.parametrize("name", ["numbers", "a/b", "bool"])
def test_any_label_and_any_column_name_work(adata, toy, name, tmp_path):
    labels = {"numbers": [3, 10, 2], "a/b": ["x/y", "z", "/"], "bool": [True, False, True]}[name]
    adata.obs[name.replace("/", "")] = adata.obs[name] = np.resize(labels, 12)
    gf.tl.embed_genes(adata, toy, groupby=name)
    groups = adata.uns[f"geneformer_{name.replace('/', '_')}"]["groups"].tolist()
    assert groups == [str(label) for label in sorted(set(labels))]


def test_min_cells_turns_rare_genes_and_small_groups_into_nan(adata, toy, log):
    adata.obs["size"] = ["tiny"] * 2 + ["large"] * 10
    full = gf.tl.embed_genes(adata, toy, groupby="size", copy=True)
    gf.tl.embed_genes(adata, toy, groupby="size", min_cells=3)
    n_cells = adata.varm["geneformer_n_cells"][:, 0]
    assert (n_cells < 3).any()
    np.testing.assert_array_equal(np.isnan(adata.varm["geneformer"]).all(axis=1), n_cells < 3)
    np.testing.assert_array_equal(adata.varm["geneformer"][n_cells >= 3], full.varm["geneformer"][n_cells >= 3])
    assert np.isnan(adata.varm["geneformer_size"][:, 1]).all()
    np.testing.assert_array_equal(adata.varm["geneformer_size_n_cells"], full.varm["geneformer_size_n_cells"])
    assert "groups of fewer than min_cells=3 cells are NaN: tiny (2)" in log()


def test_genes_that_share_a_token_receive_the_same(adata, toy):
    names = adata.var["ensembl_id"].tolist()
    names[7] = names[3]
    adata.var["ensembl_id"] = names
    gf.tl.embed_genes(adata, toy, groupby="donor")
    for key in ("geneformer", "geneformer_donor", "geneformer_n_cells"):
        np.testing.assert_array_equal(adata.varm[key][7], adata.varm[key][3])


def test_genes_are_found_by_any_name_and_the_missing_ones_are_listed(adata, toy, log):
    adata = adata[:, :30].copy()
    adata.var_names = [f"mine{i}" for i in range(30)]
    full = gf.tl.embed_genes(adata, toy, copy=True)
    gf.tl.embed_genes(adata, toy, genes=["mine5", "ENSG00000000007", "G9", "OLD3", "G35", "nonsense", "mine5"])
    found = np.flatnonzero(~np.isnan(adata.varm["geneformer"]).all(axis=1))
    assert found.tolist() == [3, 5, 7, 9]
    np.testing.assert_allclose(adata.varm["geneformer"][found], full.varm["geneformer"][found], atol=1e-6)
    assert "2 of 6 genes are left out (not in adata.var: 'G35'; unknown to the model: 'nonsense')" in log()


@pytest.mark.parametrize("agg", ["mean", "median"])
def test_embeddings_of_chosen_genes_in_every_cell(adata, model, agg):
    clear_cells(adata, 4)
    gf.tl.embed_genes(adata, model, genes=["G9", "G2"], per_cell=True, agg=agg, layer=[1, -1])
    for n in (1, 3):
        expected = np.full((12, 2, 16), np.nan)
        for (row, column), state in states_by_hand(adata, model, n).items():
            if column in (9, 2):
                expected[row, [9, 2].index(column)] = state
        np.testing.assert_allclose(adata.obsm[f"geneformer_genes_L{n}"], expected, atol=1e-5)
        assert adata.uns[f"geneformer_genes_L{n}"]["genes"].tolist() == ["G9", "G2"]


def test_genes_of_raw_are_mapped_onto_var(adata, toy):
    full = gf.tl.embed_genes(adata, toy, copy=True)
    adata.raw = adata
    few = adata[:, [8, 3, 20]].copy()
    few.X = few.X * 0
    gf.tl.embed_genes(few, toy, use_raw=True)
    np.testing.assert_array_equal(few.varm["geneformer"], full.varm["geneformer"][[8, 3, 20]])


def test_a_sample_of_cells_is_stated(adata, toy, log):
    gf.tl.embed_genes(adata, toy, sample=5, agg="median", groupby="donor", seed=3)
    assert "a random sample of 5 of 12 cells" in log()
    params = adata.uns["geneformer"]["params"]
    assert (params["sample"], params["seed"]) == (5, 3)
    assert adata.uns["geneformer_donor"]["labels"]["n_cells"].sum() == 5
    by_name = np.argsort(adata.obs_names)
    rows = by_name[np.random.default_rng(3).permutation(12)[:5]]
    expected = gf.tl.embed_genes(adata[rows].copy(), toy, agg="median", copy=True)
    np.testing.assert_allclose(adata.varm["geneformer"], expected.varm["geneformer"], atol=1e-6)
    other = gf.tl.embed_genes(adata[::-1].copy(), toy, sample=5, agg="median", seed=3, copy=True)
    np.testing.assert_allclose(other.varm["geneformer"], expected.varm["geneformer"], atol=1e-6)


def test_a_sample_as_large_as_the_data_is_the_data(adata, toy):
    gf.tl.embed_genes(adata, toy, sample=12)
    assert "sample" not in adata.uns["geneformer"]["params"]


def test_a_median_beyond_memory_is_the_same_and_said(adata, toy, log):
    one = gf.tl.embed_genes(adata, toy, agg="median", groupby="donor", copy=True)
    assert "kept on disk" not in log()
    gf.tl.embed_genes(adata, toy, agg="median", groupby="donor", max_memory_gb=1e-6)
    assert "exceed 1e-06 GB: kept on disk" in log()
    for key in one.varm:
        np.testing.assert_array_equal(adata.varm[key], one.varm[key])


def test_empty_cells_count_nowhere(adata, toy):
    clear_cells(adata, *range(12))
    gf.tl.embed_genes(adata, toy, groupby="donor")
    assert np.isnan(adata.varm["geneformer"]).all()
    assert not adata.varm["geneformer_donor_n_cells"].any()


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_results_survive_files_and_subsetting(adata, model, tmp_path, how):
    asked = {"layer": [-1, -2], "groupby": ["cell_type", "donor"], "genes": ["G1", "G2", "G30"]}
    gf.tl.embed_genes(adata, model, **asked, per_cell=True)
    path = tmp_path / f"a.{how}"
    getattr(adata, f"write_{how}")(path)
    read = getattr(ad, f"read_{how}")(path)
    assert_equal(read, adata)
    part = read[2:7, [30, 1]].copy()
    np.testing.assert_array_equal(
        part.varm["geneformer_cell_type_donor_L2"], adata.varm["geneformer_cell_type_donor_L2"][[30, 1]]
    )
    np.testing.assert_array_equal(part.obsm["geneformer_genes_L2"], adata.obsm["geneformer_genes_L2"][2:7])


def test_a_backed_file_and_stored_tokens_give_the_same_numbers(adata, toy, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    gf.tl.embed_genes(backed, toy)
    tokenized = gf.tl.tokenize(adata, toy, copy=True)
    gf.tl.embed_genes(tokenized, toy)
    gf.tl.embed_genes(adata, toy)
    for other in (backed, tokenized):
        np.testing.assert_array_equal(other.varm["geneformer"], adata.varm["geneformer"])
    backed.file.close()


def test_a_copy_leaves_the_original_alone(unchanged, toy):
    assert "geneformer" in gf.tl.embed_genes(unchanged, toy, copy=True).varm


def test_a_second_call_overwrites_its_keys_and_says_so(adata, toy, log):
    gf.tl.embed_genes(adata, toy)
    assert "overwritten" not in log()
    gf.tl.embed_genes(adata, toy, layer=0)
    assert "overwritten: varm['geneformer_n_cells'], varm['geneformer'], uns['geneformer']" in log()


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"layer": 4}, "hidden layers 0"),
        ({"layer": []}, "names no layer"),
        ({"agg": "sum"}, "'mean', 'median', 'var'"),
        ({"groupby": "nope"}, "'cell_type', 'donor'"),
        ({"genes": ["x", "y"]}, "unknown to the model: 'x', 'y'"),
        ({"genes": []}, "names none"),
        ({"per_cell": True}, r"genes=\[\.\.\.\]"),
        ({"min_cells": 0}, "min_cells=0"),
        ({"min_cells": 1.5}, "min_cells=1.5"),
        ({"sample": 0}, "sample=0"),
        ({"seed": -1}, "seed=-1"),
        ({"max_memory_gb": -1}, "max_memory_gb=-1"),
        ({"max_memory_gb": "4"}, "max_memory_gb='4'"),
        ({"groupby": 5}, "groupby='5' is no column"),
        ({"counts_layer": "nope"}, "the layers are: none"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused_and_nothing_is_written(unchanged, toy, bad, text):
    with pytest.raises(gf.GeneformerError, match=text):
        gf.tl.embed_genes(unchanged, toy, **bad)


def test_cells_beyond_memory_leave_the_data_alone(unchanged, toy, monkeypatch):
    from scgeneformer.tl import _embed_genes

    room = _embed_genes.room_for_cells
    monkeypatch.setattr(_embed_genes, "room_for_cells", lambda n_obs, *rest: room(n_obs * 10**14, *rest))
    with pytest.raises(OutOfMemoryError, match=r"7.68e\+07 GB, more than is free\. Name fewer genes"):
        gf.tl.embed_genes(unchanged, toy, genes="G1", per_cell=True)


def test_a_median_beyond_memory_and_disk_leaves_the_data_alone(unchanged, toy, monkeypatch):
    from scgeneformer._engine import gene_median

    monkeypatch.setattr(gene_median.shutil, "disk_usage", lambda _: type("usage", (), {"free": 10}))
    with pytest.raises(gf.DataError, match="TMPDIR"):
        gf.tl.embed_genes(unchanged, toy, agg="median", max_memory_gb=0)


@pytest.mark.parametrize("release", ["V1", "V2"])
@pytest.mark.parametrize(("layer", "which"), [(-2, "second_to_last"), (-1, "last")])
def test_genes_equal_those_of_the_reference(shared, release, layer, which):
    folder = shared / "goldens"
    checkpoint = folder / "checkpoints" / f"{release.lower()}_small"
    model = gf.models.load(checkpoint, dictionaries=shared / "dictionaries" / release, device="cpu")
    adata = ad.read_h5ad(folder / "pbmc3k_48cells.h5ad")
    gf.tl.embed_genes(adata, model, layer=layer)
    with np.load(folder / f"pbmc3k_48cells_{release}.npz") as stored:
        golden = pd.DataFrame(stored[f"gene_{which}"], index=stored[f"gene_{which}_ids"])
    golden = golden[golden.index.str.startswith("ENSG")]
    gf.pp.map_genes(adata, model)
    found = pd.DataFrame(adata.varm["geneformer"], index=adata.var["ensembl_id"])
    assert set(found.index[found.notna().all(axis=1)]) == set(golden.index)
    found = found[~found.index.duplicated()]
    np.testing.assert_allclose(found.loc[golden.index], golden, atol=5e-6)
