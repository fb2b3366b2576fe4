"""`gf.tl.pca`."""

from __future__ import annotations

import anndata as ad
import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import zarr
from anndata.tests.helpers import assert_equal
from sklearn.decomposition import PCA
from toys import make_adata

import scgeneformer as gf
from scgeneformer._engine.statistics.pca import METHODS
from scgeneformer._errors import DataError, MissingKeyError

ROWS = np.random.default_rng(1).normal(size=(60, 9)).cumsum(axis=1).astype(np.float32)


@pytest.fixture
def adata():
    found = make_adata(60)
    found.obsm["X_geneformer"] = ROWS.copy()
    return found


class Dask:
    """What of a dask array is used: rows that are not there until they are computed."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, rows):
        return Dask(self.values[rows])

    def compute(self):
        return self.values


def in_hdf5(values, folder):
    with h5py.File(folder / "values.h5", "w") as file:
        file["values"] = values
    return h5py.File(folder / "values.h5")["values"]


def in_zarr(values, folder):
    stored = zarr.open_array(str(folder / "values.zarr"), mode="w", shape=values.shape, chunks=(7, 9), dtype="float32")
    stored[:] = values
    return stored


KINDS = {
    "array": lambda x, _: x,
    "float64, by columns": lambda x, _: np.asfortranarray(x, dtype=np.float64),
    "sparse": lambda x, _: sp.csr_matrix(x),
    "sparse by columns": lambda x, _: sp.csc_matrix(x),
    "data frame": lambda x, _: pd.DataFrame(x, index=[f"cell{i}" for i in range(len(x))]).rename(columns="d{}".format),
    "HDF5": in_hdf5,
    "zarr": in_zarr,
}


# --- what is written ------------------------------------------------------------------------------------------------


def test_scores_and_axes_of_an_embedding_are_under_keys_of_its_own(adata, log):
    gf.tl.pca(adata, n_comps=4)
    exact = PCA(4, svd_solver="full").fit(ROWS.astype(np.float64))
    scores, entry = adata.obsm["X_geneformer_pca"], adata.uns["X_geneformer_pca"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact.transform(ROWS), atol=1e-5)
    np.testing.assert_allclose(entry["components"], exact.components_.T, atol=1e-7)
    np.testing.assert_allclose(entry["variance"], exact.explained_variance_)
    np.testing.assert_allclose(entry["variance_ratio"], exact.explained_variance_ratio_)
    np.testing.assert_allclose(entry["mean"], exact.mean_, rtol=1e-5)
    assert entry["noise_variance"] == pytest.approx(exact.noise_variance_)
    assert entry["total_variance"] == pytest.approx(ROWS.astype(np.float64).var(axis=0, ddof=1).sum())
    version = entry["params"].pop("version")
    assert version
    assert entry["params"] == {"method": "incremental", "use_rep": "X_geneformer", "n_comps": 4}
    assert not adata.varm.keys()
    assert "computing incremental PCA of adata.obsm['X_geneformer']: 9 features, 4 components" in log()


def test_probabilistic_has_a_likelihood_which_goes_with_it(adata):
    gf.tl.pca(adata, method="probabilistic", n_comps=4)
    exact = PCA(4, svd_solver="full").fit(ROWS.astype(np.float64))
    column = adata.obs["X_geneformer_pca_log_likelihood"]
    assert column.dtype == np.float32
    np.testing.assert_allclose(column, exact.score_samples(ROWS.astype(np.float64)), rtol=1e-5)
    entry = adata.uns["X_geneformer_pca"]
    projected = (ROWS - entry["mean"]) @ entry["components"]
    posterior = projected * np.sqrt(entry["variance"] - entry["noise_variance"]) / entry["variance"]
    np.testing.assert_allclose(adata.obsm["X_geneformer_pca"], posterior, atol=1e-5)
    gf.tl.pca(adata, n_comps=4)
    assert "X_geneformer_pca_log_likelihood" not in adata.obs


def test_axes_of_genes_go_with_the_scores_that_take_their_key(adata):
    gf.tl.pca(adata, n_comps=3, use_rep="X", key_added="p")
    assert "p" in adata.varm
    gf.tl.pca(adata, n_comps=3, key_added="p")
    assert "p" not in adata.varm
    assert adata.uns["p"]["params"]["use_rep"] == "X_geneformer"


def test_scores_never_stand_beside_a_likelihood_of_other_ones(adata, monkeypatch):
    gf.tl.pca(adata, method="probabilistic", n_comps=4)
    before = adata.copy()

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("scgeneformer._adata.writer.drop", stop)
    with pytest.raises(KeyboardInterrupt):
        gf.tl.pca(adata, n_comps=3)
    assert_equal(adata, before, exact=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("use_rep", ["X", "counts"])
def test_keys_of_genes_are_those_of_scanpy(adata, use_rep, method):
    adata.layers["counts"] = adata.X.copy()
    gf.tl.pca(adata, use_rep, method=method, n_comps=5)
    theirs = sc.pp.pca(adata, n_comps=5, svd_solver="arpack", copy=True)
    np.testing.assert_allclose(adata.uns["pca"]["variance"], theirs.uns["pca"]["variance"], rtol=1e-4)
    assert adata.varm["PCs"].shape == (40, 5)
    cosines = (adata.varm["PCs"] * theirs.varm["PCs"]).sum(axis=0)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-4)
    assert adata.obsm["X_pca"].shape == (60, 5)
    assert "components" not in adata.uns["pca"]
    assert ("pca_log_likelihood" in adata.obs) == (method == "probabilistic")


def test_cells_without_an_embedding_are_left_out(adata, log):
    adata.obsm["X_geneformer"][[3, 8]] = np.nan
    gf.tl.pca(adata, method="probabilistic", n_comps=3)
    assert np.flatnonzero(np.isnan(adata.obsm["X_geneformer_pca"]).all(axis=1)).tolist() == [3, 8]
    assert np.flatnonzero(adata.obs["X_geneformer_pca_log_likelihood"].isna()).tolist() == [3, 8]
    assert "2 of 60 cells have no values (NaN) in adata.obsm['X_geneformer']: left out, NaN in the result" in log()
    others = adata[np.delete(np.arange(60), [3, 8])].copy()
    gf.tl.pca(others, method="probabilistic", n_comps=3, key_added="again")
    np.testing.assert_allclose(others.obsm["again"], others.obsm["X_geneformer_pca"], atol=1e-6)
    np.testing.assert_allclose(others.uns["again"]["variance"], adata.uns["X_geneformer_pca"]["variance"])


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.parametrize("use_rep", ["X_geneformer", "X"])
def test_it_survives_storage(adata, form, use_rep, tmp_path):
    gf.tl.pca(adata, use_rep, method="probabilistic", n_comps=3, key_added="mine")
    getattr(adata, f"write_{form}")(tmp_path / "x")
    assert_equal(getattr(ad, f"read_{form}")(tmp_path / "x"), adata)


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_leaves_the_original_alone_and_a_second_call_gives_the_same(unchanged, method):
    once = gf.tl.pca(unchanged, method=method, n_comps=3, copy=True)
    assert_equal(gf.tl.pca(unchanged, method=method, n_comps=3, copy=True), once)
    assert "X_geneformer_pca" in once.obsm


def test_plots_of_scanpy_draw_what_is_stored(adata):
    gf.tl.pca(adata, n_comps=4, key_added="pca")
    sc.pl.pca_variance_ratio(adata, n_pcs=3, show=False)
    sc.pl.pca(adata, color="cell_type", show=False)
    sc.pl.ranking(adata, "uns", "variance_ratio", dictionary="pca", labels="PC", n_points=3, show=False)
    gf.tl.pca(adata, "X", n_comps=4)
    sc.pl.pca_variance_ratio(adata, n_pcs=3, show=False)
    sc.pl.pca_loadings(adata, "1,2", show=False)
    plt.close("all")


# --- where the rows come from ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_representation_gives_the_same(adata, kind, method, tmp_path, monkeypatch):
    monkeypatch.setattr("scgeneformer._engine.statistics.pca.BLOCK_BYTES", 8 * 9 * 13)  # 13 rows at a time
    expected = gf.tl.pca(adata, method=method, n_comps=3, copy=True)
    adata.obsm["X_geneformer"] = KINDS[kind](ROWS, tmp_path)
    gf.tl.pca(adata, method=method, n_comps=3)
    np.testing.assert_allclose(adata.obsm["X_geneformer_pca"], expected.obsm["X_geneformer_pca"], atol=1e-5)
    if kind == "HDF5":
        adata.obsm["X_geneformer"].file.close()


def test_a_file_is_read_by_rows(adata, tmp_path, monkeypatch):
    monkeypatch.setattr("scgeneformer._engine.statistics.pca.BLOCK_BYTES", 8 * 9 * 13)
    asked = []

    class Spy(Dask):
        def __getitem__(self, rows):
            asked.append((rows.start, rows.stop))
            return super().__getitem__(rows)

    monkeypatch.setattr(
        "scgeneformer._adata.representation._find", lambda *_: ("adata.obsm['X_geneformer']", Spy(ROWS))
    )
    gf.tl.pca(adata, n_comps=3)
    assert asked == [(0, 13), (13, 26), (26, 39), (39, 52), (52, 60)] * 2
    np.testing.assert_allclose(
        adata.uns["X_geneformer_pca"]["variance"], PCA(3).fit(ROWS).explained_variance_, rtol=1e-5
    )


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
def test_backed_counts_give_the_same_scores(kind, tmp_path):
    adata = make_adata(60)
    expected = gf.tl.pca(adata, "X", n_comps=3, copy=True)
    adata.X = kind(adata.X)
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    gf.tl.pca(backed, "X", n_comps=3)
    np.testing.assert_allclose(backed.obsm["X_pca"], expected.obsm["X_pca"], atol=1e-5)
    with pytest.raises(DataError, match=r"copy=True needs the data in memory"):
        gf.tl.pca(backed, "X", n_comps=3, copy=True)
    backed.file.close()


def test_a_view_gives_its_own_rows(adata):
    rows = np.arange(0, 60, 2)
    found = gf.tl.pca(adata[rows], n_comps=3, copy=True)
    np.testing.assert_allclose(found.uns["X_geneformer_pca"]["mean"], ROWS[rows].mean(axis=0), rtol=1e-5)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "asked", "text"),
    [
        (ROWS, {"method": "vae"}, r"method='vae' does not exist; choose one of 'incremental', 'probabilistic'\."),
        (ROWS, {"n_comps": 0}, r"n_comps=0 must be a whole number of at least 1\."),
        (
            ROWS,
            {"n_comps": 10},
            r"n_comps=10 is too many for method='incremental': 60 rows of 9 features have at most 9 \(rows with a NaN "
            r"do not count\)\. Give n_comps=9 or fewer\.",
        ),
        (ROWS, {"n_comps": 9, "method": "probabilistic"}, r"have at most 8 .* Give n_comps=8 or fewer\."),
        (
            np.where(np.arange(60)[:, None] == 7, np.inf, ROWS),
            {},
            r"adata\.obsm\['X_geneformer'\] holds infinite values, first in row 7\. Replace them, or drop the",
        ),
        (
            np.zeros((60, 2, 3)),
            {},
            r"adata\.obsm\['X_geneformer'\] has the shape \(60, 2, 3\); a matrix of numbers, cells × features, is",
        ),
        (np.full((60, 4), "a"), {}, r"adata\.obsm\['X_geneformer'\] holds no numbers; a matrix of numbers"),
        (
            sp.csr_matrix((60, 8193), dtype=np.float32),
            {"method": "probabilistic"},
            r"has 8193 features; method='probabilistic' needs their covariance matrix and takes at most 8192\. Use "
            r"method='incremental', or take fewer features, such as adata\[:, adata\.var\['highly_variable'\]\]\.copy",
        ),
    ],
)
def test_what_cannot_be_reduced_is_refused_and_nothing_is_written(adata, values, asked, text):
    adata.obsm["X_geneformer"] = values
    before = adata.copy()
    with pytest.raises(DataError, match=text):
        gf.tl.pca(adata, **{"n_comps": 2, **asked})
    assert_equal(adata, before)


def test_a_representation_that_is_not_there_is_named_with_those_that_are(adata):
    text = r"use_rep='X_scvi' is neither in adata.obsm nor in adata.layers; the keys are: 'X', 'X_geneformer'. Run gf"
    with pytest.raises(MissingKeyError, match=text):
        gf.tl.pca(adata, "X_scvi")
    empty = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    with pytest.raises(MissingKeyError, match=r"use_rep='X' is neither .* the keys are: none\. Run"):
        gf.tl.pca(empty, "X")


# --- real cells -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pbmc():
    """150 real cells with embeddings of the demonstration model."""
    found = gf.datasets.pbmc68k()[:150].copy()
    with gf.settings.override(progress=False):
        gf.tl.embed_cells(found, model="mini")
    return found


def left_over(rows, uns, axes):
    centered = rows - uns["mean"]
    return (centered**2).sum() - ((centered @ axes) ** 2).sum()


@pytest.mark.parametrize("by", ["louvain", "cell_type", "n_counts"])
@pytest.mark.parametrize(("method", "n_comps"), [("incremental", 50), ("incremental", 8), ("probabilistic", 50)])
def test_embeddings_of_real_cells_in_any_order_lose_hardly_more_than_exact_axes(pbmc, method, n_comps, by):
    pbmc = pbmc[pbmc.obs[by].sort_values(kind="stable").index].copy()
    gf.tl.pca(pbmc, method=method, n_comps=n_comps)
    rows = pbmc.obsm["X_geneformer"].astype(np.float64)
    exact = PCA(n_comps, svd_solver="full").fit(rows)
    entry = pbmc.uns["X_geneformer_pca"]
    ratio = left_over(rows, entry, entry["components"]) / left_over(rows, {"mean": exact.mean_}, exact.components_.T)
    assert 1 - 1e-9 < ratio < 1.06
    if (method, n_comps) != ("incremental", 8):  # there axes are dropped
        np.testing.assert_allclose(entry["variance"], exact.explained_variance_, rtol=1e-9)
        assert ratio == pytest.approx(1)


def test_genes_of_real_cells_lose_hardly_more_than_exact_axes(shared):
    adata = sc.read_h5ad(shared / "data" / "pbmc3k.h5ad")[:1000].copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=1000)
    adata = adata[:, adata.var["highly_variable"]].copy()
    rows = adata.X.toarray().astype(np.float64)
    exact = PCA(50, svd_solver="full").fit(rows)
    gf.tl.pca(adata, "X", n_comps=50)
    best = left_over(rows, {"mean": exact.mean_}, exact.components_.T)
    assert left_over(rows, adata.uns["pca"], adata.varm["PCs"]) / best < 1.01
    np.testing.assert_allclose(adata.uns["pca"]["variance"][:5], exact.explained_variance_[:5], rtol=5e-3)
    gf.tl.pca(adata, "X", method="probabilistic", n_comps=50)
    np.testing.assert_allclose(adata.uns["pca"]["variance"], exact.explained_variance_, rtol=1e-6)
    assert adata.uns["pca"]["noise_variance"] == pytest.approx(_noise(rows, 50))


def _noise(rows, q):
    """Mean of the eigenvalues that are left, of the covariance of all features."""
    return np.linalg.eigvalsh(np.cov(rows.T))[:-q].mean()
