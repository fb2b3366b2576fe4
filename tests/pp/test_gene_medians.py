import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal
from toys import make_adata

import scgeneformer as gf
from scgeneformer._errors import DataError, MissingKeyError

COLUMNS = [f"geneformer_{name}" for name in ("median", "mean", "variance", "std", "detection")]


def test_statistics_are_those_computed_by_hand():
    adata = ad.AnnData(np.array([[1, 3, 0], [0, 0, 0], [2, 0, 0], [1, 1, 2]], dtype=np.float32))
    gf.pp.gene_medians(adata, target_sum=4)  # gives 1 3 0, 0, 4 0 0, 1 1 2
    found = adata.var
    assert list(found) == COLUMNS
    assert all(found[name].dtype == np.float64 for name in COLUMNS)
    assert found["geneformer_median"].tolist() == [1, 2, 2]
    assert found["geneformer_mean"].tolist() == [1.5, 1, 0.5]
    np.testing.assert_allclose(found["geneformer_variance"], [2.25, 1.5, 0.75])
    np.testing.assert_allclose(found["geneformer_std"], np.sqrt([2.25, 1.5, 0.75]))
    assert found["geneformer_detection"].tolist() == [0.75, 0.5, 0.25]
    params = adata.uns["geneformer_median"]["params"]
    assert (params["target_sum"], params["n_cells"], params["exact"]) == (4, 4, True)
    assert (params["counts"], params["gene_ids"]) == ("adata.X", "var_names")


@pytest.fixture
def adata():
    return make_adata(n_cells=60)  # every gene has a count


def test_statistics_are_those_of_the_naive_twin(adata):
    gf.pp.gene_medians(adata)
    dense = adata.X.toarray().astype(np.float64)
    scaled = dense / dense.sum(axis=1, keepdims=True) * 1e4
    expected = np.array([np.median(column[column > 0]) for column in scaled.T])
    np.testing.assert_allclose(adata.var["geneformer_median"], expected, rtol=1e-6)
    np.testing.assert_allclose(adata.var["geneformer_mean"], scaled.mean(axis=0))
    np.testing.assert_allclose(adata.var["geneformer_variance"], scaled.var(axis=0))


def test_a_gene_that_is_never_seen_has_no_median(adata):
    dense = adata.X.toarray()
    dense[:, 3] = 0
    adata.X = sp.csr_matrix(dense)
    gf.pp.gene_medians(adata)
    assert adata.var["geneformer_median"].isna().tolist() == [i == 3 for i in range(40)]
    assert adata.var["geneformer_mean"].iloc[3] == 0


def test_genes_of_one_id_share_a_result_and_one_without_stands_for_itself(adata):
    ids = adata.var["ensembl_id"].tolist()
    ids[5], ids[8], ids[9] = f"{ids[2]}.7", "", ""
    adata.var["ensembl_id"] = ids
    gf.pp.gene_medians(adata, target_sum=None)
    dense = adata.X.toarray().astype(np.float64)
    together = dense[:, 2] + dense[:, 5]
    assert (adata.var["geneformer_mean"].iloc[[2, 5]] == together.mean()).all()
    assert (adata.var["geneformer_median"].iloc[[2, 5]] == np.median(together[together > 0])).all()
    np.testing.assert_allclose(adata.var["geneformer_mean"].iloc[[8, 9]], dense[:, [8, 9]].mean(axis=0))


def test_raw_has_other_genes_and_the_result_is_found_by_name(adata):
    expected = adata.copy()
    gf.pp.gene_medians(expected)
    adata.raw = adata
    few = adata[:, [7, 3, 20]].copy()
    few.X = few.X * -1
    gf.pp.gene_medians(few, use_raw=True)
    pd.testing.assert_frame_equal(few.var[COLUMNS], expected.var[COLUMNS].iloc[[7, 3, 20]])
    assert few.uns["geneformer_median"]["params"]["counts"] == "adata.raw.X"


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_files(adata, tmp_path, suffix):
    gf.pp.gene_medians(adata)
    path = tmp_path / f"a.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    pd.testing.assert_frame_equal(back.var[COLUMNS], adata.var[COLUMNS])
    assert back.uns["geneformer_median"]["params"] == adata.uns["geneformer_median"]["params"]


def test_dask_and_backed_files_give_the_same(adata, tmp_path):
    expected = gf.pp.gene_medians(adata, copy=True).var[COLUMNS]
    lazy = adata.copy()
    lazy.X = da.from_array(adata.X.toarray(), chunks=(5, 20))
    gf.pp.gene_medians(lazy)
    pd.testing.assert_frame_equal(lazy.var[COLUMNS], expected)
    assert isinstance(lazy.X, da.Array)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    gf.pp.gene_medians(backed)
    pd.testing.assert_frame_equal(backed.var[COLUMNS], expected)
    backed.file.close()


def test_a_view_gets_results_of_its_own_and_a_copy_leaves_the_original_alone(unchanged):
    found = gf.pp.gene_medians(unchanged, copy=True, key_added="mine")
    assert [name for name in found.var if "mine" in name] == [name.replace("geneformer", "mine") for name in COLUMNS]
    view = unchanged[:5]
    gf.pp.gene_medians(view)
    assert view.uns["geneformer_median"]["params"]["n_cells"] == 5


def test_what_is_overwritten_is_told(adata, log):
    gf.pp.gene_medians(adata)
    gf.pp.gene_medians(adata)
    assert "overwritten: var['geneformer_median']" in log()


def test_scaled_data_are_refused_and_the_counts_are_pointed_to(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.toarray() - 1
    before = adata.copy()
    with pytest.raises(DataError, match=r"adata.X holds negative values \(scaled data\?\).*counts_layer='counts'"):
        gf.pp.gene_medians(adata)
    with pytest.raises(MissingKeyError, match=r"adata.var\['absent'\] does not exist"):
        gf.pp.gene_medians(adata, counts_layer="counts", gene_ids="absent")
    with pytest.raises(DataError, match="target_sum=0 must be a positive number"):
        gf.pp.gene_medians(adata, counts_layer="counts", target_sum=0)
    assert_equal(adata, before)


def test_without_cells_no_gene_has_a_median():
    adata = make_adata()[:0].copy()
    gf.pp.gene_medians(adata)
    assert adata.var["geneformer_median"].isna().all()
    assert (adata.var["geneformer_detection"] == 0).all()
