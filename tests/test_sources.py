"""Wherever the cells are, in memory or on disk, every function gives the same numbers."""

import threading
import warnings
from contextlib import ExitStack

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from toys import make_adata, make_model

import scgeneformer as gf
from scgeneformer._adata import tokens as tokens_module
from scgeneformer._adata.disk.files import opened
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._errors import DataError

N_CELLS = 30
KINDS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda x: x.toarray()}
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding will be the default:UserWarning")


def cells(kind="csr"):
    """The same cells, whose counts are stored in one of several ways."""
    adata = make_adata(N_CELLS)
    adata.X = KINDS[kind](adata.X)
    adata.layers["counts"] = adata.X.copy()
    return adata


def write_zarr(adata, path, version, shards=None):
    """Write zarr of this version; sparse arrays in shards of this size, of ten chunks."""

    def write_one(write, store, key, element, *, dataset_kwargs, iospec):
        if shards is not None and iospec.encoding_type == "csr_matrix":
            dataset_kwargs = {**dataset_kwargs, "shards": (shards,), "chunks": (shards // 10,)}
        write(store, key, element, dataset_kwargs=dataset_kwargs)

    if zarr.__version__ < "3":
        pytest.skip("zarr 3 is not installed")
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    ad.experimental.write_dispatched(group, "/", adata, callback=write_one)


def read_lazy(path):
    pytest.importorskip("xarray")
    if not hasattr(ad.experimental, "read_lazy"):
        pytest.skip("anndata is older than read_lazy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, where a file is not consolidated
        return ad.experimental.read_lazy(path)


def h5ad(folder, kind):
    """File of the cells, written once."""
    if not (path := folder / f"{kind}.h5ad").exists():
        cells(kind).write_h5ad(path)
    return path


def zarr_store(folder, kind, version, shards=None):
    if not (path := folder / f"{kind}-{version}-{shards}.zarr").exists():
        write_zarr(cells(kind), path, version, shards)
    return path


def in_memory(stack, folder, kind):
    return cells(kind)


def in_dask(stack, folder, kind):
    da = pytest.importorskip("dask.array")
    adata = cells(kind)
    adata.X, adata.layers["counts"] = (da.from_array(x, chunks=(7, -1)) for x in (adata.X, adata.layers["counts"]))
    return adata


def backed(stack, folder, kind):
    adata = ad.read_h5ad(h5ad(folder, kind), backed="r")
    stack.callback(adata.file.close)
    return adata


def h5ad_of_command(stack, folder, kind):
    return stack.enter_context(opened(h5ad(folder, kind)))


def zarr_of_command(stack, folder, kind):
    return stack.enter_context(opened(zarr_store(folder, kind, 2)))


def lazy_h5ad(stack, folder, kind):
    return read_lazy(h5ad(folder, kind))


def lazy_zarr(version, shards=None):
    return lambda stack, folder, kind: read_lazy(zarr_store(folder, kind, version, shards))


def two_files(stack, folder, kind):
    first, second = folder / "first.h5ad", folder / "second.zarr"
    if not second.exists():
        cells()[:11].copy().write_h5ad(first)
        write_zarr(cells()[11:].copy(), second, 3)
    return ad.concat([read_lazy(first), read_lazy(second)])


SOURCES = {
    **{f"memory {kind}": (in_memory, kind) for kind in ("csc", "dense")},
    **{f"backed {kind}": (backed, kind) for kind in KINDS},
    **{f"zarr {kind}, opened by a command": (zarr_of_command, kind) for kind in KINDS},
    "h5ad csc, opened by a command": (h5ad_of_command, "csc"),
    "dask csr": (in_dask, "csr"),
    "lazy h5ad csr": (lazy_h5ad, "csr"),
    "lazy h5ad csc": (lazy_h5ad, "csc"),
    "lazy zarr 2 dense": (lazy_zarr(2), "dense"),
    "lazy zarr 3 csr": (lazy_zarr(3), "csr"),
    "lazy zarr 3 csr, shards": (lazy_zarr(3, 100), "csr"),
    "two files": (two_files, "csr"),
}


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sources")


@pytest.fixture
def source(request, folder):
    """The cells from one of the sources."""
    make, kind = SOURCES[request.param]
    with ExitStack() as stack:
        yield make(stack, folder, kind)


def host(value):
    """A result in memory, wherever dask left it."""
    value = value.compute() if hasattr(value, "compute") else value
    return value.toarray() if sp.issparse(value) else np.asarray(value)


def tokenize(adata, model):
    gf.tl.tokenize(adata, model)
    return adata.obsm["geneformer_tokens"]


def embed_cells(adata, model):
    gf.tl.embed_cells(adata, model, counts_layer="counts")
    return adata.obsm["X_geneformer"]


def embed_groups(adata, model):
    gf.tl.embed_cells(adata, model, groupby=["cell_type", "donor"])
    return adata.uns["X_geneformer_cell_type_donor"]


def embed_genes(adata, model):
    gf.tl.embed_genes(adata, model, groupby="cell_type")
    return adata.varm["geneformer_cell_type"]


def gene_medians(adata, model):
    gf.pp.gene_medians(adata)
    return adata.var["geneformer_median"]


def map_genes(adata, model):
    gf.pp.map_genes(adata, model)
    return adata.var["geneformer_token"]


def perturb(adata, model):
    gf.tl.perturb(adata, ["G1", "G2"], model=model)
    return adata.layers["geneformer_delete"]


def perturb_to_goal(adata, model):
    goal = {"column": "cell_type", "start": "B", "goal": "T cell"}
    gf.tl.perturb(adata, ["G1", "G2"], model=model, goal=goal)
    return adata.layers["geneformer_delete_to_T_cell"]


CALLS = (tokenize, embed_cells, embed_groups, embed_genes, gene_medians, map_genes, perturb, perturb_to_goal)


@pytest.fixture(scope="module")
def expected(model):
    """Results of all calls in memory."""
    return {call: host(call(cells(), model)) for call in CALLS}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_results_are_those_in_memory_and_the_rows_stay(source, call, model, expected):
    names = source.obs_names.tolist()
    found = host(call(source, model))
    np.testing.assert_allclose(found, expected[call], atol=1e-6)
    assert source.obs_names.tolist() == names == [f"cell{i}" for i in range(N_CELLS)]


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_the_report_is_the_same(source, model):
    assert gf.pp.check(source, model).to_frame().equals(gf.pp.check(cells(), model).to_frame())


def test_there_are_shards_in_the_file_that_is_said_to_have_them(folder):
    assert zarr.open_group(str(zarr_store(folder, "csr", 3, 100)))["X/data"].shards == (100,)


def test_log1p_and_stored_tokens_are_recognised_in_a_lazily_opened_file(tmp_path, model, log):
    adata = cells()
    adata.X = adata.X.astype(np.float32).log1p() / np.float32(np.log(2))
    adata.uns["log1p"] = {"base": 2}
    adata.write_h5ad(tmp_path / "logged.h5ad")
    np.testing.assert_array_equal(host(tokenize(read_lazy(tmp_path / "logged.h5ad"), model)), tokenize(adata, model))
    tokenized = cells()
    gf.tl.tokenize(tokenized, model)
    tokenized.write_h5ad(tmp_path / "tokenized.h5ad")
    again = read_lazy(tmp_path / "tokenized.h5ad")
    gf.tl.embed_cells(again, model)
    assert "using the tokens stored in adata.obsm" in log()
    gf.tl.embed_cells(tokenized, model)
    np.testing.assert_allclose(host(again.obsm["X_geneformer"]), tokenized.obsm["X_geneformer"], atol=1e-6)


def test_only_the_columns_that_are_needed_are_read_from_a_lazily_opened_file(folder, model, monkeypatch):
    adata = read_lazy(h5ad(folder, "csr"))
    read, whole = [], type(adata.obs).to_memory
    monkeypatch.setattr(type(adata.obs), "to_memory", lambda self, **k: read.append(set(self)) or whole(self, **k))
    embed_groups(adata, model)
    assert {"cell_type", "donor"} in read
    gf.tl.split_cells(adata, label="cell_type")
    assert {"cell_type"} in read
    assert adata.obs[["geneformer_split"]].to_memory()["geneformer_split"].nunique() == 3


def test_a_column_that_does_not_exist_in_a_lazily_opened_file_is_refused(folder, model):
    adata = read_lazy(h5ad(folder, "csr"))
    with pytest.raises(DataError, match=r"groupby='nope' is no column of adata.obs; the columns are: '"):
        gf.tl.embed_cells(adata, model, groupby="nope")
    assert list(adata.obs) == ["cell_type", "donor"]


@pytest.mark.parametrize(
    "source", ["backed csr", "zarr csr, opened by a command", "memory dense", "lazy zarr 3 csr, shards"], indirect=True
)
def test_the_next_cells_are_read_and_encoded_while_the_model_works(source, model, monkeypatch):
    monkeypatch.setattr(tokens_module, "ROWS_PER_BLOCK", 10)
    cells_read = open_tokens(source, model.vocabulary)
    encoded, real = threading.Semaphore(0), cells_read._encode
    monkeypatch.setattr(type(cells_read), "_encode", lambda self, *counts: (real(*counts), encoded.release())[0])
    for number, (first, _, _) in enumerate(cells_read.blocks()):  # here the model works on this block
        assert first == 10 * number
        assert encoded.acquire(timeout=30)  # this block
        if number < 2:
            assert encoded.acquire(timeout=30)  # the next one, although nobody has asked for it yet
            encoded.release()


@pytest.mark.parametrize(
    "call",
    [
        gf.tl.tokenize,
        gf.tl.embed_genes,
        lambda adata, model: gf.tl.train_classifier(adata, "cell_type", model=model),
        lambda adata, model: gf.tl.pretrain([cells(), adata], vocabulary=model.vocabulary),
    ],
    ids=["tokenize", "embed_genes", "train_classifier", "pretrain"],
)
def test_a_view_of_a_backed_file_cannot_hold_results_and_says_so_first(folder, model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata = ad.read_h5ad(h5ad(folder, "csr"), backed="r")
    with pytest.raises(DataError, match=r"view of a backed AnnData.*adata\.to_memory\(\)"):
        call(adata[5:], model)
    assert gf.pp.check(adata[5:], model).ok
    assert not any(tmp_path.iterdir())
    adata.file.close()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda adata, path: path, r"not PosixPath\. Open the file: .*backed='r'"),
        (lambda adata, path: str(path), r"not str\. Open the file"),
        (lambda adata, path: [adata], r"not list\. Make one of the files.*concat\(\[anndata\.experimental\.read_lazy"),
        (lambda adata, path: ad.experimental.AnnCollection([adata]), "not AnnCollection. Make one of the files"),
        (lambda adata, path: None, "not NoneType.$"),
    ],
    ids=["path", "text", "list", "AnnCollection", "None"],
)
@pytest.mark.parametrize(
    "call",
    [gf.tl.embed_cells, gf.pp.check, lambda adata, model: gf.tl.train_classifier(adata, "cell_type", model=model)],
    ids=["embed_cells", "check", "train_classifier"],
)
def test_what_is_no_anndata_is_refused_with_the_way_to_make_one(tmp_path, model, make, text, call):
    with pytest.raises(DataError, match=f"adata must be an AnnData, {text}"):
        call(make(cells(), tmp_path / "cells.h5ad"), model)
