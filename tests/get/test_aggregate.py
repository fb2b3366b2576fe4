import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal

import scgeneformer as gf

AGGREGATES = {"mean": np.mean, "median": np.median, "var": np.var}


@pytest.fixture
def adata():
    """Six cells by hand: one without a label, one without an embedding, a category without a cell."""
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(["b", "a/1", "b", None, "a/1", "b"], categories=["b", "never", "a/1"]),
            "number": [2, 10, 2, 2, 2, 10],
        },
        index=[f"cell{i}" for i in range(6)],
    )
    rows = np.array([[1, 2], [3, 4], [5, 8], [7, 7], [np.nan, np.nan], [9, 5]], dtype=np.float32)
    return ad.AnnData(np.zeros((6, 1), np.float32), obs=obs, obsm={"X_geneformer": rows})


@pytest.mark.parametrize(
    ("func", "b"), [("mean", [5, 5]), ("median", [5, 5]), ("var", [32 / 3, 6])], ids=["mean", "median", "var"]
)
def test_groups_by_hand(adata, func, b, log):
    found = gf.get.aggregate(adata, "type", func)
    assert found.obs_names.tolist() == ["b", "a/1"]  # the order of the categories
    assert found.var_names.tolist() == ["0", "1"]
    assert found.X.dtype == np.float32
    np.testing.assert_allclose(found.X, [b, [0, 0] if func == "var" else [3, 4]], rtol=1e-6)
    assert found.obs["n_cells"].tolist() == [3, 1]
    assert found.obs["type"].cat.categories.tolist() == ["b", "a/1"]
    for text in ("1 of 6 cells have no label", "1 of 6 cells have no embedding", "1 categories of type have no cell"):
        assert text in log()
    counted = {key: n for key, n in found.uns["aggregate"].items() if key != "params"}
    assert counted == {"n_cells_without_label": 1, "n_cells_without_embedding": 1, "n_categories_without_cell": 1}


def test_several_columns_and_a_group_without_an_embedding(adata, log):
    found = gf.get.aggregate(adata, ["type", "number"])
    assert found.obs_names.tolist() == ["b | 2", "b | 10", "a/1 | 2", "a/1 | 10"]
    assert found.obs["number"].cat.categories.tolist() == ["2", "10"]
    assert found.obs["n_cells"].tolist() == [2, 1, 0, 1]
    assert np.isnan(found.X).all(axis=1).tolist() == [False, False, True, False]
    assert "groups without an embedded cell are NaN: 'a/1 | 2'" in log()


@pytest.mark.parametrize("func", AGGREGATES)
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, lambda a: pd.DataFrame(a, columns=list("xyz"))])
def test_any_embedding_equals_numpy(func, kind):
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(5, 1, (50, 3)), rng.choice(["u", "v", "w"], 50)
    obs = pd.DataFrame({"g": labels}, index=[f"c{i}" for i in range(50)])
    value = kind(rows)
    if isinstance(value, pd.DataFrame):
        value.index = obs.index
    found = gf.get.aggregate(ad.AnnData(obs=obs, obsm={"e": value}), "g", func, key="e")
    expected = [AGGREGATES[func](rows[labels == g], axis=0) for g in found.obs_names]
    np.testing.assert_allclose(found.X, expected, rtol=1e-6)
    assert found.var_names.tolist() == (list("xyz") if isinstance(value, pd.DataFrame) else ["0", "1", "2"])


def test_it_equals_the_groups_of_embed_cells(toy):
    from toys import make_adata

    adata = make_adata()
    gf.tl.embed_cells(adata, toy, groupby="cell_type", agg="median")
    found = gf.get.aggregate(adata, "cell_type", "median")
    np.testing.assert_array_equal(found.X, adata.uns["X_geneformer_cell_type"].to_numpy())


def test_columns_in_parts_give_the_same(adata, monkeypatch):
    from scgeneformer._engine.statistics import aggregate

    whole = gf.get.aggregate(adata, "type", "median").X
    monkeypatch.setattr(aggregate, "BYTES_AT_A_TIME", 1)
    np.testing.assert_array_equal(gf.get.aggregate(adata, "type", "median").X, whole)


def test_the_result_is_ready_for_scanpy_and_survives_files(adata, tmp_path):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(obs=pd.DataFrame({"g": np.repeat(np.arange(12), 4)}, index=[f"c{i}" for i in range(48)]))
    adata.obsm["X_geneformer"] = rng.normal(size=(48, 5))
    found = gf.get.aggregate(adata, "g")
    assert found.obs_names.tolist() == [str(i) for i in range(12)]
    found.write_h5ad(tmp_path / "a.h5ad")
    found.write_zarr(tmp_path / "a.zarr")
    assert_equal(ad.read_h5ad(tmp_path / "a.h5ad"), found)
    assert_equal(ad.read_zarr(tmp_path / "a.zarr"), found)
    sc.pp.pca(found, n_comps=2)
    assert found.obsm["X_pca"].shape == (12, 2)


def test_a_column_named_twice_counts_once(adata):
    assert gf.get.aggregate(adata, ["type", "type"]).obs_names.tolist() == ["b", "a/1"]


def test_the_original_is_left_alone(adata):
    before = adata.copy()
    gf.get.aggregate(adata, "type")
    assert_equal(adata, before)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"by": "nope"}, "'type', 'number'"),
        ({"by": []}, "groupby"),
        ({"by": "n_cells"}, "Rename"),
        ({"func": "sum"}, "'mean', 'median', 'var'"),
        ({"key": "nope"}, "the keys are: 'X_geneformer'"),
        ({"key": "cube"}, r"adata\.obsm\[.cube.\] has the shape \(6, 2, 2\); a matrix of numbers, cells × f"),
    ],
    ids=str,
)
def test_bad_input_is_refused(adata, bad, text):
    adata.obsm["cube"] = np.zeros((6, 2, 2))
    adata.obs["n_cells"] = 1
    text = text.replace("'type', 'number'", "'type', 'number', 'n_cells'")
    with pytest.raises(gf.DataError, match=text):
        gf.get.aggregate(adata, **{"by": "type", **bad})
