import re
import weakref

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal
from toys import make_adata

import scgeneformer as gf
from scgeneformer._adata.disk.files import opened
from scgeneformer._errors import DataError, MissingKeyError


@pytest.fixture
def whole():
    return make_adata(n_cells=60)


def same(found, expected) -> None:
    assert found.checksum == expected.checksum
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())


def test_files_in_any_order_and_parts_that_are_merged_are_the_whole(whole, tmp_path):
    whole[:11].copy().write_h5ad(tmp_path / "a.h5ad")
    whole[11:30].copy().write_zarr(tmp_path / "b.zarr")
    expected = gf.models.gene_statistics(whole)
    same(gf.models.gene_statistics([tmp_path / "a.h5ad", str(tmp_path / "b.zarr"), whole[30:]]), expected)
    same(gf.models.gene_statistics(iter([whole[30:], tmp_path / "b.zarr", tmp_path / "a.h5ad"])), expected)
    one = gf.models.gene_statistics(tmp_path / "a.h5ad").save(tmp_path / "one.npz")
    two = gf.models.gene_statistics([whole[30:], tmp_path / "b.zarr"]).save(tmp_path / "two.npz")
    same(gf.models.GeneStatistics.load(two).merge(gf.models.GeneStatistics.load(one)), expected)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int64)])
def test_every_kind_of_matrix_in_memory_and_on_disk(whole, tmp_path, kind):
    expected = gf.models.gene_statistics(whole)
    whole.X = kind(whole.X)
    same(gf.models.gene_statistics(whole), expected)
    whole.write_h5ad(tmp_path / "a.h5ad")
    whole.write_zarr(tmp_path / "a.zarr")
    same(gf.models.gene_statistics(ad.read_h5ad(tmp_path / "a.h5ad", backed="r")), expected)
    for name in ("a.h5ad", "a.zarr"):
        with opened(tmp_path / name) as lazy:
            same(gf.models.gene_statistics(lazy), expected)


@pytest.mark.parametrize("chunks", [(60, 40), (7, 40), (1, 11)])
@pytest.mark.parametrize("dense", [True, False])
def test_dask_reduces_its_chunks_to_the_same(whole, chunks, dense):
    expected = gf.models.gene_statistics(whole, max_memory_gb=0)
    source = da.from_array(whole.X.toarray(), chunks=chunks)
    whole.X = source if dense else source.map_blocks(sp.csr_matrix)
    found = gf.models.gene_statistics(whole, max_memory_gb=0)
    assert found.checksum == expected.checksum
    np.testing.assert_allclose(found.variance, expected.variance)


def test_a_chunk_of_a_dask_array_is_gone_before_the_next_comes():
    adata = make_adata(n_cells=2000)
    alive = most = 0

    def forget():
        nonlocal alive
        alive -= 1

    def load(block):
        nonlocal alive, most
        chunk = block + 0
        alive, most = alive + 1, max(most, alive + 1)
        weakref.finalize(chunk, forget)
        return chunk

    source = da.from_array(adata.X.toarray(), chunks=(100, 40))
    adata.X = source.map_blocks(load, meta=np.empty((0, 0), dtype=np.float32))
    with dask.config.set(scheduler="synchronous"):
        gf.models.gene_statistics(adata)
    assert most <= 2  # of 20: rows that are looked at beforehand may lie in two


def test_bad_values_in_a_late_chunk_are_told(whole):
    dense = np.tile(whole.X.toarray(), (100, 1))
    dense[5003, 3] = -1  # not among the rows that are looked at beforehand
    adata = ad.AnnData(da.from_array(dense, chunks=(500, 40)), var=whole.var)
    with pytest.raises(DataError, match=r"adata.X holds negative values \(scaled data\?\)"):
        gf.models.gene_statistics(adata)


def test_log1p_data_give_the_medians_of_their_counts(whole, log):
    import scanpy as sc

    expected = gf.models.gene_statistics(whole)
    sc.pp.normalize_total(whole, target_sum=500)
    sc.pp.log1p(whole)
    found = gf.models.gene_statistics(whole)
    np.testing.assert_allclose(found.median, expected.median, rtol=1e-5)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-5)
    assert re.search(r"holds fractions, up to [\d.]+: taken as log1p of normalised counts", log())


def test_genes_differ_between_files_and_are_joined_by_id(whole, log):
    one, two = whole[:20, :30].copy(), whole[20:, 10:].copy()
    two.var["ensembl_id"] = two.var["ensembl_id"] + ".3"
    two.var.iloc[0, 0] = ""
    found = gf.models.gene_statistics([one, two]).to_frame()
    assert found.index.tolist() == whole.var["ensembl_id"].tolist()
    assert found["n_cells"].tolist() == [20] * 11 + [60] * 19 + [40] * 10
    assert found["symbol"].tolist() == whole.var_names.tolist()
    assert "1 genes have no ID (ensembl_id) and are left out" in log()


def test_counts_may_be_in_a_layer_or_raw_and_stay_as_they_are(whole):
    expected = gf.models.gene_statistics(whole, target_sum=None)
    assert expected.target_sum is None
    np.testing.assert_allclose(expected.mean, whole.X.toarray().mean(axis=0))
    whole.layers["counts"] = whole.X.copy()
    whole.raw = whole
    whole.X = whole.X * -1
    same(gf.models.gene_statistics(whole, counts_layer="counts", target_sum=None), expected)
    same(gf.models.gene_statistics(whole, use_raw=True, target_sum=None), expected)
    with pytest.raises(DataError, match=r"adata\.X holds negative values"):
        gf.models.gene_statistics(whole)


def test_what_cannot_be_used_is_refused_before_anything_is_read(whole, tmp_path, monkeypatch):
    from scgeneformer.models import _gene_statistics

    def never(*_, **__):
        raise AssertionError("read")

    monkeypatch.setattr(_gene_statistics, "statistics_of", never)
    with pytest.raises(DataError, match="corpus is empty; give an AnnData, a path, or a list"):
        gf.models.gene_statistics([])
    with pytest.raises(DataError, match="corpus holds a ndarray; give AnnData or paths of h5ad or zarr files"):
        gf.models.gene_statistics([whole, np.ones(3)])
    with pytest.raises(DataError, match=r"the suffix must be \.h5ad or \.zarr"):
        gf.models.gene_statistics([whole, tmp_path / "x.csv"])
    with pytest.raises(FileNotFoundError, match=r"There is no file .*x.h5ad"):
        gf.models.gene_statistics([whole, tmp_path / "x.h5ad"])
    with pytest.raises(MissingKeyError, match=r"adata.layers\['counts'\] does not exist"):
        gf.models.gene_statistics(whole, counts_layer="counts")


@pytest.mark.parametrize("target_sum", [0, -1, "x", True, np.nan, np.inf])
def test_bad_target_sums_are_refused(whole, target_sum):
    with pytest.raises(DataError, match=r"target_sum=.* must be a positive number, or None to leave the counts"):
        gf.models.gene_statistics(whole, target_sum=target_sum)


@pytest.mark.parametrize("max_memory_gb", [-1, None, True, np.nan])
def test_bad_budgets_are_refused(whole, max_memory_gb):
    with pytest.raises(DataError, match=r"max_memory_gb=.* must be a number of at least 0"):
        gf.models.gene_statistics(whole, max_memory_gb=max_memory_gb)


def test_beyond_the_budget_medians_are_rounded_and_it_is_said(whole, log):
    exact, found = gf.models.gene_statistics(whole), gf.models.gene_statistics(whole, max_memory_gb=1e-6)
    assert (exact.exact, found.exact) == (True, False)
    np.testing.assert_allclose(found.median, exact.median, rtol=1 / 512)
    assert "medians exact" in log()
    assert "medians rounded to 9 bits" in log()


def test_the_corpus_stays_as_it_is(whole):
    before = whole.copy()
    gf.models.gene_statistics(whole)
    assert_equal(whole, before)


def test_data_without_cells_add_nothing(whole):
    found = gf.models.gene_statistics([whole[:0].copy(), whole])
    assert found.checksum == gf.models.gene_statistics(whole).checksum


def test_medians_of_real_blood_resemble_the_published_ones(shared):
    """Rank correlation with the V2 dictionary, of genes in at least 100 of 2,700 cells."""
    from scgeneformer._engine.dictionaries import vocabulary_from_dictionaries

    published = vocabulary_from_dictionaries(shared / "dictionaries" / "V2", 4096)
    found = gf.models.gene_statistics(shared / "data" / "pbmc3k.h5ad").to_frame()
    theirs = pd.Series(published.medians, index=published.ensembl_ids)
    often = found.index[(found["n_detected"] >= 100)].intersection(theirs.index)
    assert len(often) > 3000
    assert found.loc[often, "median"].corr(theirs[often], method="spearman") > 0.5
