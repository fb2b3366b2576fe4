"""Counts in a dask array, computed by two processes of a cluster on this machine."""

import os
import sys
import time

import anndata as ad
import cloudpickle
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from toys import make_adata, make_model

import scgeneformer as gf
from scgeneformer._errors import DataError, ModelError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
pytestmark = pytest.mark.long  # in a process of its own: `.ci/run` does so
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
ONE_BY_ONE = {"tokens_per_batch": 1}  # every cell alone, so that batches are the same everywhere


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    quiet = {"dashboard_address": ":0", "silence_logs": 50}
    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=0, **quiet) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def adata():
    return gf.datasets.pbmc68k()[:36].copy()


def lazy(adata, each=lambda block, block_info=None: block):
    """The same AnnData with chunks of 9 cells as `X`, each given to a function by the worker that reads it."""
    found = adata.copy()
    source = da.from_array(adata.X.toarray(), chunks=(9, -1)).map_blocks(each, dtype=np.float32)
    found.X = source.map_blocks(sp.csr_matrix, dtype=np.float32, meta=sp.csr_matrix((0, 0), dtype=np.float32))
    return found


def number_of(block_info) -> int:
    return block_info[0]["chunk-location"][0] if block_info else -1


def test_two_processes_give_the_bits_of_one(client, adata, tmp_path):
    expected = gf.tl.embed_cells(adata, "mini", copy=True, **ONE_BY_ONE)
    cells = lazy(adata)
    gf.tl.embed_cells(cells, "mini", **ONE_BY_ONE)
    cells.obsm["X_geneformer"].to_zarr(tmp_path / "x.zarr")  # by the workers
    np.testing.assert_array_equal(da.from_zarr(tmp_path / "x.zarr").compute(), expected.obsm["X_geneformer"])
    loaded = client.run(lambda: gf.models.cache_info()[["model", "device"]].to_numpy().tolist())
    assert list(loaded.values()) == [[["mini", "cpu"]]] * 2  # each has one, and no more
    cells.write_zarr(tmp_path / "a.zarr")  # by threads of this process
    np.testing.assert_array_equal(ad.read_zarr(tmp_path / "a.zarr").obsm["X_geneformer"], expected.obsm["X_geneformer"])


def test_sums_and_perturbations(client, adata, log, capsys):
    for call in (
        lambda cells: gf.tl.embed_genes(cells, "mini", groupby="cell_type"),
        lambda cells: gf.tl.perturb(cells, ["CD74"], model="mini", sample=6),
        lambda cells: gf.pp.gene_medians(cells),
    ):
        cells = lazy(adata)
        with gf.settings.override(progress=True):
            call(cells)
        call(adata)
        for slot in ("varm", "layers", "var"):
            for key, wanted in getattr(adata, slot).items():
                if key in getattr(cells, slot) and key != "ensembl_id":
                    found = getattr(cells, slot)[key]
                    if sp.issparse(wanted):
                        found, wanted = found.toarray(), wanted.toarray()
                    if np.asarray(wanted).dtype.kind in "fiu":
                        np.testing.assert_allclose(found, wanted, **CLOSE)
    assert f"36 cells in 4 chunks, computed by dask on {client.scheduler.address}" in log()
    shown = capsys.readouterr().err
    assert "embed genes" in shown
    assert "gene medians" in shown


def test_a_slow_worker_changes_nothing(client, adata):
    def dawdle(block, block_info=None):
        time.sleep(0.3 * (number_of(block_info) == 0))
        return block

    expected = gf.tl.embed_cells(adata, "mini", copy=True).obsm["X_geneformer"]
    cells = lazy(adata, dawdle)
    gf.tl.embed_cells(cells, "mini")
    np.testing.assert_allclose(cells.obsm["X_geneformer"].compute(), expected, **CLOSE)


def test_a_chunk_that_fails_is_named(client):
    small = gf.datasets.pbmc68k()
    counts = da.from_array(np.tile(small.X.toarray(), (3, 1)), chunks=(300, -1))
    adata = ad.AnnData(counts.map_blocks(_spoilt, dtype=np.float32), var=small.var)
    text = r"In rows 1,800 to 2,099: adata.X holds negative values \(scaled data\?\)"
    gf.tl.tokenize(adata, "mini")
    with pytest.raises(DataError, match=text):
        adata.obsm["geneformer_tokens"][-1].compute()
    with pytest.raises(DataError, match=text):
        gf.pp.gene_medians(adata)
    assert "geneformer_median" not in adata.var


def _spoilt(block, block_info=None):
    """A chunk with a cell that is not among those that are looked at beforehand."""
    block = block.copy()
    if number_of(block_info) == 6:
        block[123, 0] = -1
    return block


def test_a_model_of_this_process_alone_is_refused(client):
    cells = lazy(make_adata(n_cells=36))
    with pytest.raises(ModelError, match=r"The model 'toy' was built in this process .* model='folder'"):
        gf.tl.embed_cells(cells, make_model())
    assert not cells.obsm


def test_a_worker_that_is_killed_costs_its_chunk(client, adata, tmp_path):
    armed = tmp_path / "armed"

    def die(block, block_info=None):
        if number_of(block_info) == 2 and armed.exists():
            armed.unlink()
            os._exit(1)
        return block

    expected = gf.tl.embed_cells(adata, "mini", copy=True).obsm["X_geneformer"]
    cells = lazy(adata, die)
    gf.tl.embed_cells(cells, "mini")
    armed.touch()
    np.testing.assert_allclose(cells.obsm["X_geneformer"].compute(), expected, **CLOSE)
    assert not armed.exists()
