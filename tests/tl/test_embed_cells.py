import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata.tests.helpers import assert_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import clear_cells, make_adata, make_bert, make_model

import scgeneformer as gf


def by_hand(adata, model, layer):
    """Stock BertModel on every cell, mean over its genes."""
    gf.tl.tokenize(adata, model)
    stock, vocabulary = make_bert(model.vocabulary), model.vocabulary
    rows = []
    for tokens in adata.obsm["geneformer_tokens"].astype(np.int64):
        tokens = tokens[tokens > 0]
        if not len(tokens):
            rows.append(np.full(model.width, np.nan))
            continue
        with torch.no_grad():
            state = stock(torch.tensor(tokens[None]), output_hidden_states=True).hidden_states[layer][0]
        rows.append(state[vocabulary.n_lead : len(tokens) - vocabulary.n_trail].mean(dim=0).numpy())
    return np.array(rows)


@pytest.mark.parametrize("layer", range(-4, 4))
def test_every_layer_equals_the_stock_model_cell_by_cell(adata, model, layer):
    gf.tl.embed_cells(adata, model, layer=layer)
    found = adata.obsm["X_geneformer"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(adata.copy(), model, layer), atol=1e-5)


def test_several_layers_are_those_of_single_calls_under_keys_of_their_own(adata, model):
    gf.tl.embed_cells(adata, model, layer=[-2, 0, 3], key_added="X_g")
    assert set(adata.obsm) == {"X_g_L2", "X_g_L0", "X_g_L3"}
    for n in (0, 2, 3):
        single = gf.tl.embed_cells(make_adata(), model, layer=n, copy=True).obsm["X_geneformer"]
        np.testing.assert_allclose(adata.obsm[f"X_g_L{n}"], single, atol=1e-6)
        assert adata.uns[f"X_g_L{n}"]["params"]["layer"] == n


def test_the_same_layer_named_twice_is_one_layer(adata, toy):
    gf.tl.embed_cells(adata, toy, layer=[-1, 3])
    assert set(adata.obsm) == {"X_geneformer"}


@pytest.mark.parametrize("tokens_per_batch", [1, 37, 100_000])
def test_the_numbers_do_not_depend_on_the_batches(adata, model, tokens_per_batch):
    one = gf.tl.embed_cells(adata, model, copy=True)
    other = gf.tl.embed_cells(adata, model, tokens_per_batch=tokens_per_batch, copy=True)
    np.testing.assert_allclose(one.obsm["X_geneformer"], other.obsm["X_geneformer"], atol=2e-6)


@given(order=st.permutations(range(12)))
@settings(max_examples=15, deadline=None)
def test_the_numbers_go_with_the_cells_whatever_their_order(order):
    model, adata = make_model(), make_adata()
    one = gf.tl.embed_cells(adata, model, copy=True).obsm["X_geneformer"]
    other = gf.tl.embed_cells(adata[list(order)].copy(), model, copy=True).obsm["X_geneformer"]
    np.testing.assert_allclose(other, one[list(order)], atol=2e-6)


def test_params_tell_how_the_numbers_were_made(adata, toy):
    gf.tl.embed_cells(adata, toy)
    params = adata.uns["X_geneformer"]["params"]
    assert params["model"] == "toy"
    assert (params["layer"], params["pooling"], params["dtype"]) == (2, "mean", "float32")
    assert params["version"] == gf.__version__
    assert params["counts"] == "adata.X"


def test_cells_without_tokens_are_nan_rows_and_warned_of_once(adata, model, log):
    clear_cells(adata, 0, 7)
    gf.tl.embed_cells(adata, model)
    empty = np.isnan(adata.obsm["X_geneformer"]).all(axis=1)
    assert np.flatnonzero(empty).tolist() == [0, 7]
    assert np.flatnonzero(adata.obs["geneformer_n_tokens"] == 0).tolist() == [0, 7]
    assert log().count("2 of 12 cells") == 1


def test_only_empty_cells_are_all_nan(adata, toy):
    adata.X = adata.X * 0
    gf.tl.embed_cells(adata, toy)
    assert np.isnan(adata.obsm["X_geneformer"]).all()


@pytest.mark.parametrize("agg", ["mean", "median"])
def test_groups_are_aggregated_as_pandas_does(adata, toy, agg):
    clear_cells(adata, 4)  # the empty cell counts in no group
    gf.tl.embed_cells(adata, toy, groupby="cell_type", agg=agg)
    cells = pd.DataFrame(adata.obsm["X_geneformer"]).drop(index=4)
    labels = adata.obs["cell_type"].astype(str).to_numpy()[cells.index]
    found = adata.uns["X_geneformer_cell_type"]
    expected = getattr(cells.groupby(labels), agg)()
    np.testing.assert_allclose(found.loc[expected.index], expected, atol=1e-6)
    table = adata.uns["X_geneformer_cell_type_groups"]
    assert table["n_cells"].to_dict() == {"B": 4, "CD4+/CD25 T Reg": 3, "T cell": 4}


@pytest.mark.parametrize("tokens_per_batch", [20, None])
@pytest.mark.parametrize("agg", ["mean", "median"])
def test_groups_without_keeping_the_cells_are_the_same(adata, model, agg, tokens_per_batch):
    clear_cells(adata, 4)
    adata.obs.loc["cell0", "cell_type"] = np.nan
    asked = {"groupby": "cell_type", "agg": agg, "layer": [1, -1]}
    full = gf.tl.embed_cells(adata, model, **asked, copy=True)
    gf.tl.embed_cells(adata, model, **asked, per_cell=False, tokens_per_batch=tokens_per_batch)
    assert not adata.obsm
    assert set(adata.uns) == {key for key in full.uns if key.startswith("X_geneformer_cell_type")}
    pd.testing.assert_frame_equal(adata.uns["X_geneformer_cell_type_groups"], full.uns["X_geneformer_cell_type_groups"])
    assert adata.uns["X_geneformer_cell_type_L1_params"]["agg"] == agg
    for key in ("X_geneformer_cell_type_L1", "X_geneformer_cell_type_L3"):
        pd.testing.assert_frame_equal(adata.uns[key], full.uns[key], atol=2e-6, rtol=0)


def test_a_group_of_empty_cells_is_nan_however_it_is_computed(adata, toy):
    adata.obs["size"] = ["none", *["some"] * 11]
    clear_cells(adata, 0)
    for per_cell in (True, False):
        gf.tl.embed_cells(adata, toy, groupby="size", per_cell=per_cell)
        assert np.isnan(adata.uns["X_geneformer_size"].loc["none"]).all()
        assert adata.uns["X_geneformer_size_groups"]["n_cells"].tolist() == [0, 11]


def test_several_columns_make_one_axis_and_a_table_of_combinations(adata, toy):
    gf.tl.embed_cells(adata, toy, groupby=["cell_type", "donor"], layer=[1, 2])
    table = adata.uns["X_geneformer_cell_type_donor_groups"]
    assert table.shape == (6, 3)
    assert table.loc["CD4+/CD25 T Reg | b", ["cell_type", "donor"]].tolist() == ["CD4+/CD25 T Reg", "b"]
    assert adata.uns["X_geneformer_cell_type_donor_L1"].index.tolist() == table.index.tolist()


def test_missing_labels_and_unused_categories_make_no_group(adata, toy, log):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("unused")
    adata.obs.loc["cell0", "cell_type"] = np.nan
    gf.tl.embed_cells(adata, toy, groupby="cell_type")
    assert adata.uns["X_geneformer_cell_type"].index.tolist() == ["B", "CD4+/CD25 T Reg", "T cell"]
    assert "1 of 12 cells have no label in cell_type" in log()


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_results_survive_files(adata, model, tmp_path, how):
    gf.tl.embed_cells(adata, model, layer=[-1, -2], groupby=["cell_type", "donor"])
    path = tmp_path / f"a.{how}"
    getattr(adata, f"write_{how}")(path)
    assert_equal(getattr(ad, f"read_{how}")(path), adata)


def test_a_backed_file_gives_the_same_numbers(adata, toy, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    gf.tl.embed_cells(backed, toy)
    gf.tl.embed_cells(adata, toy)
    np.testing.assert_array_equal(backed.obsm["X_geneformer"], adata.obsm["X_geneformer"])
    backed.file.close()


def test_half_precision_is_close(adata, toy):
    one = gf.tl.embed_cells(adata, toy, copy=True).obsm["X_geneformer"]
    other = gf.tl.embed_cells(adata, toy, dtype="bfloat16", copy=True).obsm["X_geneformer"]
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(one, other)


def test_a_second_call_overwrites_its_keys_and_says_so(adata, toy, log):
    gf.tl.embed_cells(adata, toy)
    assert "overwritten" not in log()
    gf.tl.embed_cells(adata, toy, layer=0)
    assert "overwritten: obs['geneformer_n_tokens'], obsm['X_geneformer']" in log()
    assert adata.uns["X_geneformer"]["params"]["layer"] == 0


def test_a_copy_leaves_the_original_alone(unchanged, toy):
    assert "X_geneformer" in gf.tl.embed_cells(unchanged, toy, copy=True).obsm


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"layer": 4}, "hidden layers 0"),
        ({"layer": [0, -5]}, "layer=-5"),
        ({"layer": []}, "layer=\\[\\] names no layer"),
        ({"pooling": "cls"}, "has none"),
        ({"pooling": "max"}, "'mean', 'cls', 'first'"),
        ({"agg": "sum"}, "'mean', 'median'"),
        ({"per_cell": False}, r"stores the embeddings of groups only\. Name their column: groupby='\.\.\.'"),
        ({"groupby": "nope"}, "'cell_type', 'donor'"),
        ({"groupby": []}, "groupby"),
        ({"counts_layer": "nope"}, "the layers are: none"),
        ({"gene_ids": "nope"}, "the columns are: 'ensembl_id'"),
        ({"tokens_per_batch": 0}, "at least 1"),
        ({"dtype": "int8"}, "int8"),
        ({"device": "abacus"}, "abacus"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused_and_nothing_is_written(unchanged, toy, bad, text):
    with pytest.raises(gf.GeneformerError, match=text):
        gf.tl.embed_cells(unchanged, toy, **bad)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_bad_values_are_refused_and_nothing_is_written(adata, toy, value):
    adata.X = adata.X.toarray()
    adata.X[3, 3] = value
    before = adata.copy()
    with pytest.raises(gf.DataError, match=r"negative|NaN"):
        gf.tl.embed_cells(adata, toy)
    assert_equal(adata, before)


def test_an_interrupt_in_the_middle_leaves_the_data_alone(unchanged, toy, monkeypatch):
    calls = []

    def interrupt(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    from scgeneformer._engine import forward

    original = forward.hidden_states
    monkeypatch.setattr(forward, "hidden_states", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gf.tl.embed_cells(unchanged, toy, tokens_per_batch=20)
    assert len(calls) == 3


def test_labels_that_are_all_missing_are_refused(adata, toy):
    adata.obs["empty"] = np.nan
    with pytest.raises(gf.DataError, match="All labels"):
        gf.tl.embed_cells(adata, toy, groupby="empty")


def test_two_devices_give_the_numbers_of_one(adata, model):
    one = gf.tl.embed_cells(adata, model, copy=True)
    two = gf.tl.embed_cells(adata, model, device=["cpu", "cpu"], copy=True)
    np.testing.assert_allclose(two.obsm["X_geneformer"], one.obsm["X_geneformer"], atol=2e-6)
