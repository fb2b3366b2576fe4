"""`gf.tl.split_cells`."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from toys import make_adata

import scgeneformer as gf
from scgeneformer._errors import DataError, MissingKeyError


@pytest.fixture
def adata():
    found = make_adata(60)
    found.obs["donor"] = np.resize([f"donor {i}" for i in range(6)], 60)
    return found


def test_every_class_is_divided_by_the_fractions_and_the_call_is_recorded(adata, log):
    gf.tl.split_cells(adata, "cell_type", fractions=(0.6, 0.2, 0.2), seed=3)
    parts = adata.obs["geneformer_split"]
    assert parts.cat.categories.tolist() == ["train", "validation", "test"]
    assert (
        parts.groupby(adata.obs["cell_type"], observed=True).value_counts().unstack().to_numpy().tolist()
        == [[12, 4, 4]] * 3
    )
    params = adata.uns["geneformer_split"]["params"]
    assert params["labels"] == ["cell_type"]
    assert params["seed"] == 3
    assert ["train", "36", "60.0%"] in [line.split() for line in log().splitlines()]


def test_donors_are_whole(adata, log):
    gf.tl.split_cells(adata, split_by="donor", key_added="mine")
    parts = adata.obs["mine"]
    assert (parts.groupby(adata.obs["donor"]).nunique() == 1).all()
    assert adata.uns["mine"]["params"]["split_by"].tolist() == ["donor"]
    lines = [line.split() for line in log().splitlines()]
    assert ["cells", "units", "share"] in lines
    assert ["train", "40", "4", "66.7%"] in lines


def test_folds_are_equally_large(adata):
    gf.tl.split_cells(adata, "cell_type", n_folds=4)
    assert adata.obs["geneformer_fold"].value_counts().to_dict() == dict.fromkeys("0123", 15)
    assert "geneformer_split" not in adata.obs


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_it_survives_storage(adata, form, tmp_path):
    adata.obs.loc["cell0", "cell_type"] = None
    gf.tl.split_cells(adata, "cell_type", split_by="donor")
    assert adata.obs["geneformer_split"].isna().sum() == 1
    getattr(adata, f"write_{form}")(tmp_path / "x")
    again = getattr(ad, f"read_{form}")(tmp_path / "x")
    assert_equal(again.obs[["geneformer_split"]], adata.obs[["geneformer_split"]])
    np.testing.assert_array_equal(again.uns["geneformer_split"]["params"]["labels"], ["cell_type"])


def test_a_copy_leaves_adata_alone(unchanged):
    assert "geneformer_split" in gf.tl.split_cells(unchanged, copy=True).obs


def test_a_failed_call_leaves_adata_alone(unchanged):
    with pytest.raises(MissingKeyError, match="split_by='x' is no column"):
        gf.tl.split_cells(unchanged, split_by="x")
    with pytest.raises(MissingKeyError, match="label='x' is no column"):
        gf.tl.split_cells(unchanged, "x")
    with pytest.raises(DataError, match=r"There are 3 units to divide into 3 parts|too many of them are the only one"):
        gf.tl.split_cells(unchanged, "cell_type", split_by="cell_type")
    with pytest.raises(DataError, match="must add up to 1"):
        gf.tl.split_cells(unchanged, fractions=(1, 1, 1))
