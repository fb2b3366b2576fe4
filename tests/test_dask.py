"""Counts in a dask array, computed in threads of this process; clusters are in test_dask_cluster.py."""

import threading
import time
from dataclasses import replace

import anndata as ad
import cloudpickle
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_bert, make_model, make_vocabulary

import scgeneformer as gf
from scgeneformer._adata.dask_chunks import RowChunks, compute
from scgeneformer._errors import DataError, GeneformerError, ModelError
from scgeneformer.models._reference import Reference, Unnamed, refer_to
from scgeneformer.tl import _chunks, _embed_genes_chunks

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def lazy(adata: ad.AnnData, *, rows: int = 17, columns: int = 23, sparse: bool = True, told: list | None = None):
    """The same AnnData with a dask array as `X`; the number of rows of every chunk that is read goes to `told`."""

    def read(block):
        if told is not None:
            told.append(len(block))
        return sp.csr_matrix(block) if sparse else block

    found = adata.copy()
    source = da.from_array(adata.X.toarray(), chunks=(rows, columns))
    meta = sp.csr_matrix((0, 0), dtype=np.float32) if sparse else np.empty((0, 0), np.float32)
    found.X = source.map_blocks(read, dtype=np.float32, meta=meta)
    return found


@pytest.fixture
def adata():
    return make_adata(n_cells=60)


@pytest.fixture
def opened(monkeypatch):
    """First rows of the chunks on which a model was run."""
    firsts, real = [], _chunks.Recipe.open

    def spy(self, first, matrices):
        firsts.append(first)
        return real(self, first, matrices)

    monkeypatch.setattr(_chunks.Recipe, "open", spy)
    return firsts


# --- lazy results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [True, False])
def test_nothing_is_run_until_it_is_computed(adata, model, opened, sparse):
    clear_cells(adata, 3, 59)
    expected = gf.tl.embed_cells(adata, model, layer=[-1, 0], copy=True)
    cells = lazy(adata, rows=3, columns=40, sparse=sparse)
    assert gf.tl.embed_cells(cells, model, layer=[-1, 0]) is None
    assert opened == []
    for key in ("X_geneformer_L3", "X_geneformer_L0"):
        found = cells.obsm[key]
        assert isinstance(found, da.Array)
        assert (found.shape, found.dtype, found.chunks) == ((60, 16), np.float32, ((3,) * 20, (16,)))
        assert len(found.dask.layers) < 10  # whatever the number of chunks
        assert (type(found._meta), found._meta.dtype) == (np.ndarray, np.float32)
        assert cells.uns[key] == expected.uns[key]
    assert list(cells.obs) == list(adata.obs)
    one, other = dask.compute(cells.obsm["X_geneformer_L3"], cells.obsm["X_geneformer_L0"])
    assert sorted(opened) == list(range(0, 60, 3))  # both layers in one pass
    np.testing.assert_allclose(one, expected.obsm["X_geneformer_L3"], **CLOSE)
    np.testing.assert_allclose(other, expected.obsm["X_geneformer_L0"], **CLOSE)
    assert np.flatnonzero(np.isnan(one[:, 0])).tolist() == [3, 59]


def test_a_sample_of_the_chunks_is_read_to_tell_whether_they_hold_counts(toy):
    told = []
    cells = lazy(make_adata(n_cells=5000), rows=50, columns=40, told=told)
    gf.tl.embed_cells(cells, toy)
    gf.tl.tokenize(cells, toy)
    assert sum(told) <= 2 * 10 * 150  # ten stretches of 100 cells, for each call


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_bits_are_the_same_where_batches_are(adata, model, pooling):
    asked = {"pooling": pooling, "tokens_per_batch": 1}  # every cell alone
    expected = gf.tl.embed_cells(adata, model, copy=True, **asked)
    cells = lazy(adata)
    gf.tl.embed_cells(cells, model, **asked)
    np.testing.assert_array_equal(cells.obsm["X_geneformer"].compute(), expected.obsm["X_geneformer"])


def test_bits_are_the_same_where_chunks_are_those_that_are_read_at_once(toy):
    adata = make_adata(n_cells=2100)
    expected = gf.tl.embed_cells(adata, toy, copy=True).obsm["X_geneformer"]
    cells = lazy(adata, rows=2048)
    gf.tl.embed_cells(cells, toy)
    np.testing.assert_array_equal(cells.obsm["X_geneformer"].compute(), expected)


def test_rows_that_are_selected_afterwards_are_all_that_is_run(adata, toy, opened):
    cells = lazy(adata)
    gf.tl.embed_cells(cells, toy)
    cells[17:30].to_memory()
    assert opened == [17]


@pytest.mark.parametrize("bins", [False, True])
def test_tokens_are_lazy_and_used(adata, toy, bins, log, opened):
    if bins:
        from scgeneformer._engine.encoder import use_own_kernels

        vocabulary = replace(make_vocabulary(), encoding=gf.models.ValueBinned(n_bins=9))
        toy = replace(toy, vocabulary=vocabulary, bert=use_own_kernels(make_bert(vocabulary)))
    expected = gf.tl.tokenize(adata, toy, copy=True)
    told = []
    cells = lazy(adata, told=told)
    gf.tl.tokenize(cells, toy)
    assert list(cells.obs) == list(adata.obs)
    stored = ["geneformer_tokens", "geneformer_checksums", "geneformer_bins"][: 2 + bins]
    assert sorted(cells.obsm) == sorted(stored)
    for key in stored:
        assert (cells.obsm[key].dtype, cells.obsm[key].shape) == (expected.obsm[key].dtype, expected.obsm[key].shape)
        np.testing.assert_array_equal(cells.obsm[key].compute(), expected.obsm[key])
    assert cells.uns["geneformer_tokens"] == expected.uns["geneformer_tokens"]
    for key in stored:
        cells.obsm[key] = da.from_array(expected.obsm[key], chunks=(11, 5))
    gf.tl.embed_cells(cells, toy)
    assert "using the tokens stored" in log()
    told.clear()
    found = cells.obsm["X_geneformer"].compute()
    assert told == []
    assert sorted(opened) == list(range(0, 60, 11))
    np.testing.assert_allclose(found, gf.tl.embed_cells(adata, toy, copy=True).obsm["X_geneformer"], **CLOSE)


def test_it_goes_straight_to_zarr_and_comes_back(adata, toy, tmp_path):
    expected = gf.tl.embed_cells(adata, toy, copy=True)
    cells = lazy(adata)
    gf.tl.tokenize(cells, toy)
    gf.tl.embed_cells(cells, toy)
    cells.write_zarr(tmp_path / "a.zarr")
    back = ad.read_zarr(tmp_path / "a.zarr")
    np.testing.assert_allclose(back.obsm["X_geneformer"], expected.obsm["X_geneformer"], **CLOSE)
    assert back.obsm["X_geneformer"].dtype == np.float32
    assert dict(back.uns["X_geneformer"]["params"]) == expected.uns["X_geneformer"]["params"]
    again = gf.tl.embed_cells(back, toy, key_added="again", copy=True)  # from the tokens that were stored
    np.testing.assert_allclose(again.obsm["again"], expected.obsm["X_geneformer"], **CLOSE)


@pytest.mark.parametrize("previous_too", [True, False])
def test_two_time_points_of_layers_are_lazy(adata, previous_too):
    model = make_model(two_times=True, special=True)
    adata.layers["before"] = adata.X[::-1].copy()
    adata.layers["now"] = adata.X.copy()
    asked = {"counts_layer": "now", "previous_layer": "before"}
    expected = gf.tl.embed_cells(adata, model, copy=True, **asked).obsm["X_geneformer"]
    cells = adata.copy()
    cells.layers["now"] = lazy(adata, sparse=False).X
    if previous_too:
        cells.layers["before"] = da.from_array(adata.layers["before"].toarray(), chunks=(20, 40))
    gf.tl.embed_cells(cells, model, **asked)
    np.testing.assert_allclose(cells.obsm["X_geneformer"].compute(), expected, **CLOSE)


# --- results that are computed at once ------------------------------------------------------------------------------


@pytest.mark.parametrize(("agg", "per_cell"), [("mean", False), ("mean", True), ("median", True), ("median", False)])
def test_groups_are_computed_at_once(adata, toy, agg, per_cell, opened):
    clear_cells(adata, 7)
    adata.obs.iloc[5, 0] = np.nan
    asked = {"groupby": ["cell_type", "donor"], "agg": agg, "per_cell": per_cell, "layer": [1, 2]}
    expected = gf.tl.embed_cells(adata, toy, copy=True, **asked)
    cells = lazy(adata)
    gf.tl.embed_cells(cells, toy, **asked)
    assert sorted(opened) == [0, 17, 34, 51]  # once
    pd.testing.assert_frame_equal(cells.obs, expected.obs)
    assert list(cells.uns) == list(expected.uns)
    assert all(isinstance(cells.obsm[key], np.ndarray) for key in expected.obsm)
    for key in expected.obsm:
        np.testing.assert_allclose(cells.obsm[key], expected.obsm[key], **CLOSE)
    for key, value in expected.uns.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(cells.uns[key], value, **CLOSE)
        else:
            assert_equal(cells.uns[key], value)


@pytest.mark.parametrize(
    "asked",
    [
        {"groupby": "cell_type"},
        {"agg": "var", "sample": 20, "seed": 3},
        {"genes": ["G3", "G5"], "per_cell": True, "layer": [1, 2], "sample": 9},
        {"agg": "median", "groupby": "donor"},
    ],
)
def test_sums_of_genes_are_those_in_memory(adata, toy, asked):
    clear_cells(adata, 7)
    expected = gf.tl.embed_genes(adata, toy, copy=True, **asked)
    cells = lazy(adata)
    gf.tl.embed_genes(cells, toy, **asked)
    for slot in ("varm", "obsm"):
        found, wanted = getattr(cells, slot), getattr(expected, slot)
        assert set(found) == set(wanted)
        for key in wanted:
            assert found[key].dtype == wanted[key].dtype
            np.testing.assert_allclose(found[key], wanted[key], **CLOSE)
    assert_equal(cells.uns, expected.uns)


def test_chunks_without_a_cell_that_was_chosen_are_not_read(adata, toy, opened):
    cells = lazy(adata, rows=1)
    gf.tl.embed_genes(cells, toy, sample=4)
    assert len(opened) == 4


def test_merging_changes_no_part(adata, toy):
    session = _session(adata, toy)
    slots = toy.vocabulary.slots(toy.vocabulary.tokens)
    asked = (1, slots, 40, True, False, np.zeros(17, np.int8), np.ones(17, bool))
    rows = adata.X[:17]
    recipe = _recipe(session)
    parts = [_embed_genes_chunks._sums_of(recipe.open(first, [rows]), *asked) for first in (0, 17)]
    before = parts[0].genes.sums[2].copy()
    twice = _embed_genes_chunks._added(parts)
    np.testing.assert_array_equal(parts[0].genes.sums[2], before)
    np.testing.assert_array_equal(twice.genes.sums[2], 2 * before)
    assert sorted(twice.used) == [0, 17]


PERTURBATIONS = [
    {"genes": ["G1", "G3", ("G1", "G2")], "effects": True, "vectors": True, "groupby": "donor"},
    {"genes": None, "sample": 6, "positions": "both"},
    {"genes": ["G1", "G3"], "n_matched": 2, "goal": {"column": "cell_type", "start": "B", "goal": "T cell"}},
    pytest.param({"genes": None, "mode": "delete", "method": "screen", "sample": 3}, marks=pytest.mark.long),
    pytest.param({"genes": {"set": {"G1": 30.0}, "delete": ["G2"]}, "sample": 10}, marks=pytest.mark.long),
]


@pytest.mark.parametrize("asked", PERTURBATIONS)
def test_perturbations_are_those_in_memory(adata, toy, asked):
    expected = gf.tl.perturb(adata, model=toy, copy=True, **asked)
    cells = lazy(adata)
    gf.tl.perturb(cells, model=toy, **asked)
    for slot in ("layers", "obsm", "varm"):
        found, wanted = getattr(cells, slot), getattr(expected, slot)
        assert set(found) == set(wanted)
        for key in wanted:
            one, other = found[key], wanted[key]
            if sp.issparse(other):
                np.testing.assert_array_equal(one.indptr, other.indptr)
                np.testing.assert_array_equal(one.indices, other.indices)
                one, other = one.data, other.data
            np.testing.assert_allclose(one, other, **CLOSE)
    assert_equal(cells.uns, expected.uns)


@pytest.mark.parametrize("asked", [{"mode": "set", "to": 5.0}, {"refill": True}], ids=str)
def test_whole_cells_are_read_from_the_counts_even_where_tokens_are_stored(adata, toy, asked):
    expected = gf.tl.perturb(adata, ["G1"], model=toy, copy=True, **asked)
    cells = lazy(adata)
    gf.tl.tokenize(cells, toy)
    gf.tl.perturb(cells, ["G1"], model=toy, **asked)
    key = f"geneformer_{asked.get('mode', 'delete')}"
    np.testing.assert_allclose(cells.layers[key].toarray(), expected.layers[key].toarray(), **CLOSE)


def test_lazy_tokens_of_counts_that_were_changed_are_not_used(adata, toy, log):
    cells = lazy(adata)
    gf.tl.tokenize(cells, toy)
    cells.X = lazy(make_adata(n_cells=60, seed=1)).X
    gf.tl.embed_cells(cells, toy)
    assert "the counts were changed since gf.tl.tokenize" in log()
    expected = gf.tl.embed_cells(make_adata(n_cells=60, seed=1), toy, copy=True)
    np.testing.assert_allclose(cells.obsm["X_geneformer"].compute(), expected.obsm["X_geneformer"], **CLOSE)


def test_a_perturbation_that_was_interrupted_goes_on(adata, toy, tmp_path, monkeypatch):
    asked = {"genes": ["G1", "G3"], "model": toy, "out": tmp_path / "run"}
    cells, real, seen = lazy(adata), _chunks.Recipe.open, []

    def opens(self, first, matrices):
        if first == 51 and not seen:
            raise RuntimeError("the machine went down")
        return real(self, first, matrices)

    monkeypatch.setattr(_chunks.Recipe, "open", opens)
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(GeneformerError, match=r"In rows 51 to 59: RuntimeError: the machine went down"),
    ):
        gf.tl.perturb(cells, **asked)
    assert_equal(cells.layers, lazy(adata).layers)
    done = sorted(part.name for part in (tmp_path / "run" / "parts").iterdir())
    times = [(tmp_path / "run" / "parts" / name).stat().st_mtime_ns for name in done]
    seen.append(True)
    gf.tl.perturb(cells, **asked)
    assert [(tmp_path / "run" / "parts" / name).stat().st_mtime_ns for name in done] == times
    expected = gf.tl.perturb(adata, ["G1", "G3"], model=toy, copy=True)
    np.testing.assert_allclose(
        cells.layers["geneformer_delete"].data, expected.layers["geneformer_delete"].data, **CLOSE
    )


# --- threads, errors, progress --------------------------------------------------------------------------------------


def _session(adata, model):
    from scgeneformer.tl._session import open_session

    where = dict.fromkeys(("counts_layer", "use_raw", "gene_ids", "tokens_per_batch"))
    return open_session(adata, model, -2, device="auto", dtype="auto", **where)


def _recipe(session):
    source = session.source.without_data()
    return _chunks.Recipe(refer_to(session.model), source, session.layers, session.dtype, "cpu", None)


def _working(session, together):
    together.append(1)
    time.sleep(0.01)
    most = len(together)
    together.pop()
    return most


def test_one_chunk_at_a_time_has_the_model(adata, toy):
    session, threads = _session(lazy(adata, rows=6), toy), threading.active_count()
    with dask.config.set(scheduler="threads", num_workers=4):
        assert _chunks.over_chunks(session, "test", _working, []) == [1] * 10
    assert threading.active_count() <= threads + 4


@pytest.mark.parametrize(
    "call",
    [
        lambda cells, toy: gf.tl.embed_genes(cells, toy),
        lambda cells, toy: gf.tl.embed_cells(cells, toy, groupby="donor"),
        lambda cells, toy: gf.tl.perturb(cells, ["G1"], model=toy),
        lambda cells, toy: gf.pp.gene_medians(cells),
    ],
)
def test_a_chunk_that_fails_is_named_and_nothing_is_written(toy, call):
    adata = make_adata(n_cells=3000)
    adata.X.data[adata.X.indptr[2503]] = -1  # not among the cells that are looked at beforehand
    cells = lazy(adata, rows=500)
    with pytest.raises(DataError, match=r"In rows 2,500 to 2,999: adata.X holds negative values \(scaled data\?\)"):
        call(cells, toy)
    assert_equal(cells.obs, adata.obs)
    assert not any((cells.uns, cells.varm, cells.obsm, cells.layers))
    assert list(cells.var) == ["ensembl_id"]


def test_progress_is_told_chunk_by_chunk(adata, toy, capsys):
    with gf.settings.override(progress=True):
        gf.tl.embed_genes(lazy(adata), toy)
    shown = capsys.readouterr().err
    assert "embed genes" in shown
    assert "/60" in shown


def test_the_log_says_that_dask_computes_chunks(adata, toy, log):
    gf.tl.embed_genes(lazy(adata), toy)
    assert "60 cells in 4 chunks, computed by dask in this process" in log()


def test_advance_hears_of_every_chunk():
    told = []
    parts = RowChunks([da.ones((10, 4), chunks=(4, 2))]).map(_shape, None)
    assert compute(parts, told.append) == [(0, (4, 4)), (4, (4, 4)), (8, (2, 4))]
    assert sorted(told) == [2, 4, 4]
    many = RowChunks([da.ones((30, 4), chunks=(1, 4))]).map(_shape, None)
    assert compute(many, told.append, _joined) == [[(i, (1, 4)) for i in range(30)]]


def _shape(shared, first, matrices):
    return first, matrices[0].shape


def _joined(parts):
    return [one for part in parts for one in (part if isinstance(part, list) else [part])]


def test_parts_of_a_run_are_not_kept_for_dask(adata, toy, tmp_path):
    for call in (gf.tl.embed_cells, gf.tl.embed_genes):
        with pytest.raises(
            DataError, match=r"out=.* keeps the parts of a run in one process, and the counts are a dask"
        ):
            call(lazy(adata), toy, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- names of models ------------------------------------------------------------------------------------------------


def test_a_model_is_sent_by_name_and_never_by_weight(tmp_path, monkeypatch):
    mini = gf.models.load("mini", device="cpu")
    named = refer_to(mini)
    assert (named.name, named.dictionaries) == ("mini", None)
    assert named.load("cpu", "float32") is mini
    folder = gf.models.save("mini", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    named = refer_to(gf.models.load("mine", device="cpu"))
    assert (named.name, named.dictionaries) == (str(folder.resolve()), None)
    other = gf.models.load(folder, dictionaries=mini.files.vocabulary, device="cpu")
    named = refer_to(other)
    assert (named.name, named.dictionaries) == (str(folder.resolve()), str(mini.files.vocabulary.resolve()))
    assert named.load("cpu", "float32") is other


def test_another_model_of_the_same_name_is_refused():
    with pytest.raises(ModelError, match=r"model='mini' is another one on this worker: the SHA-256 of its weights is"):
        Reference("mini", None, "0" * 64).load("cpu", "float32")


def test_a_model_of_this_process_alone_is_not_sent(toy):
    model = refer_to(toy)
    assert isinstance(model, Unnamed)
    assert model.load("cpu", "float32") is toy
    with pytest.raises(ModelError, match=r"The model 'toy' was built in this process .* gf.models.save\(model"):
        cloudpickle.dumps(model)


def test_what_is_sent_is_small():
    adata = gf.datasets.pbmc68k()[:40].copy()
    session = _session(adata, "mini")
    assert len(cloudpickle.dumps(_recipe(session))) < 0.5 * session.model.n_bytes
