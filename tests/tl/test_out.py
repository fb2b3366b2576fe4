"""Runs that keep finished parts on disk: stopped anywhere and called again, they give what an undisturbed one gives."""

from dataclasses import replace

import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from toys import Stop, clear_cells, make_adata

import scgeneformer as gf
from scgeneformer._adata.disk import parts
from scgeneformer._adata.disk.run_store import RunStore

CALLS = {
    "embed_cells": (gf.tl.embed_cells, {"layer": [0, -1], "groupby": "cell_type"}),
    "embed_genes": (gf.tl.embed_genes, {"layer": [0, -1], "groupby": "cell_type", "agg": "var"}),
    "tokenize": (gf.tl.tokenize, {}),
}
each_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr("scgeneformer._adata.tokens.ROWS_PER_BLOCK", 5)
    monkeypatch.setattr(parts, "SECONDS", 0.0)
    monkeypatch.setattr(parts, "SHARE", 0)


@pytest.fixture
def adata():
    """Five blocks of cells, one of them without a token."""
    adata = make_adata(23)
    clear_cells(adata, 1, *range(10, 15))
    return adata


def same_bits(found, expected):
    """All arrays are the same, NaN or not; the rest of `uns`, too."""
    for slot in ("obs", "obsm", "varm"):
        assert [*getattr(found, slot)] == [*getattr(expected, slot)]
        for key, values in getattr(expected, slot).items():
            np.testing.assert_array_equal(getattr(found, slot)[key], values, err_msg=f"{slot} {key}")
    assert_equal(found, expected)


@pytest.fixture
def stop_at(monkeypatch):
    """Function that stops a run when it stores a part, before or behind the write."""

    def at(number, *, behind):
        left, save = [number], RunStore.save

        def stopping(*args):
            left[0] -= 1
            if left[0] == 0 and not behind:
                raise Stop
            save(*args)
            if left[0] == 0:
                raise Stop

        monkeypatch.setattr(RunStore, "save", stopping)
        return lambda: monkeypatch.setattr(RunStore, "save", save)

    return at


@each_call
def test_results_are_those_of_a_call_without_a_folder(name, adata, toy, tmp_path):
    function, options = CALLS[name]
    kept = function(adata, toy, out=tmp_path / "run", copy=True, **options)
    same_bits(kept, function(adata, toy, copy=True, **options))
    assert len(list((tmp_path / "run" / "parts").iterdir())) == (1 if name == "embed_genes" else 5)


@each_call
@pytest.mark.parametrize("behind", [False, True], ids=["before it is stored", "behind"])
@pytest.mark.parametrize("number", [1, 4])
def test_stopped_at_any_part_it_goes_on_to_the_same_bits(name, number, behind, adata, toy, tmp_path, stop_at):
    function, options = CALLS[name]
    whole = function(adata, toy, out=tmp_path / "whole", copy=True, **options)
    before, again = adata.copy(), stop_at(number, behind=behind)
    with pytest.raises(Stop):
        function(adata, toy, out=tmp_path / "run", **options)
    assert_equal(adata, before, exact=True)
    again()
    same_bits(function(adata, toy, out=tmp_path / "run", copy=True, **options), whole)


@each_call
def test_what_is_stored_is_not_run_again(name, adata, toy, tmp_path, monkeypatch):
    from scgeneformer._engine import forward

    function, options = CALLS[name]
    first = function(adata, toy, out=tmp_path / "run", copy=True, **options)
    monkeypatch.setattr(forward, "hidden_states", None)
    monkeypatch.setattr(RunStore, "save", None)
    same_bits(function(adata, toy, out=tmp_path / "run", copy=True, **options), first)


@each_call
def test_another_run_is_refused(name, adata, toy, tmp_path, unchanged):
    function, options = CALLS[name]
    function(adata, toy, out=tmp_path / "run", copy=True, **options)
    other = adata.copy()
    other.X = other.X[::-1].copy()
    with pytest.raises(gf.DataError, match="made from other counts or genes: the data were changed since"):
        function(other, toy, out=tmp_path / "run", **options)
    if name == "tokenize":
        return
    with pytest.raises(gf.DataError, match=r"different: 'layers' was \[0, 3\], is \[2\]"):
        function(adata, toy, out=tmp_path / "run", **options | {"layer": 2})
    other = replace(toy, checksum="1" * 64)
    with pytest.raises(gf.DataError, match=r"different: 'checksum'\)"):
        function(adata, other, out=tmp_path / "run", **options)
    renamed = adata.copy()
    renamed.obs_names = [f"x{i}" for i in range(23)]
    with pytest.raises(gf.DataError, match="different: 'cell names'"):
        function(renamed, toy, out=tmp_path / "run", **options)


def test_a_change_in_any_cell_is_noticed(toy, tmp_path, stop_at, monkeypatch):
    monkeypatch.setattr("scgeneformer._adata.tokens.ROWS_PER_BLOCK", 600)
    adata = make_adata(1200)
    again = stop_at(1, behind=True)
    with pytest.raises(Stop):
        gf.tl.tokenize(adata, toy, out=tmp_path / "run")
    again()
    other = adata.copy()
    other.X = adata.X[[*range(110), 111, *range(111, 1200)]]  # row 110 is in no sample that is looked at elsewhere
    with pytest.raises(gf.DataError, match=r"holds 'cells-000000000-.*', made from other counts or genes"):
        gf.tl.tokenize(other, toy, out=tmp_path / "run")
    same_bits(gf.tl.tokenize(adata, toy, out=tmp_path / "run", copy=True), gf.tl.tokenize(adata, toy, copy=True))


@each_call
def test_a_model_that_was_moved_goes_on(name, adata, toy, tmp_path, monkeypatch):
    from scgeneformer._engine import forward

    function, options = CALLS[name]
    function(adata, toy, out=tmp_path / "run", copy=True, **options)
    monkeypatch.setattr(forward, "hidden_states", None)
    moved = replace(toy, name="copy", source="/elsewhere", revision="b" * 8)
    function(adata, moved, out=tmp_path / "run", **options)


def perturb(adata, model, **options):
    return gf.tl.perturb(adata, ["G0"], model=model, **options)


@pytest.mark.parametrize(("function", "options"), [*CALLS.values(), (perturb, {})], ids=[*CALLS, "perturb"])
def test_a_stopped_call_leaves_its_folder_to_the_next(function, options, adata, toy, tmp_path, stop_at):
    again = stop_at(1, behind=True)
    with pytest.raises(Stop) as stopped:
        function(adata, toy, out=tmp_path / "run", **options)
    again()
    function(adata, toy, out=tmp_path / "run", **options)
    assert stopped.tb  # its frames, as a notebook keeps them, hold the store


def test_the_store_of_another_function_is_refused(adata, toy, tmp_path):
    gf.tl.tokenize(adata, toy, out=tmp_path / "run", copy=True)
    with pytest.raises(gf.DataError, match="different: 'agg' was None, is mean, 'call' was tokenize, is embed_genes"):
        gf.tl.embed_genes(adata, toy, out=tmp_path / "run")


def test_batches_are_those_of_the_first_call(adata, toy, tmp_path, stop_at):
    again = stop_at(3, behind=True)
    with pytest.raises(Stop):
        gf.tl.embed_cells(adata, toy, out=tmp_path / "run", tokens_per_batch=20)
    again()
    found = gf.tl.embed_cells(adata, toy, out=tmp_path / "run", tokens_per_batch=200, copy=True)
    whole = gf.tl.embed_cells(adata, toy, out=tmp_path / "whole", tokens_per_batch=20, copy=True)
    same_bits(found, whole)


def test_a_costly_model_keeps_few_cells_at_a_time_as_the_first_call_did(adata, toy, tmp_path, stop_at, monkeypatch):
    monkeypatch.setattr("scgeneformer._engine.cost.CPU_PART", 0.0)
    stop_at(4, behind=True)
    with pytest.raises(Stop):
        gf.tl.embed_cells(adata, toy, out=tmp_path / "run", device="cpu")
    kept = [part.name.split("-")[1] for part in (tmp_path / "run" / "parts").iterdir()]
    assert sorted(map(int, kept)) == [0, 1, 2, 3]
    monkeypatch.undo()
    gf.tl.embed_cells(adata, toy, out=tmp_path / "run", device="cpu")
    assert len(list((tmp_path / "run" / "parts").iterdir())) == adata.n_obs
    expected = gf.tl.embed_cells(adata, toy, device="cpu", copy=True).obsm["X_geneformer"]
    np.testing.assert_allclose(adata.obsm["X_geneformer"], expected, rtol=1e-5, atol=1e-6)


def test_devices_share_a_folder(adata, toy, tmp_path):
    gf.tl.embed_cells(adata, toy, out=tmp_path / "run", device=["cpu", "cpu"])
    assert len(list((tmp_path / "run" / "parts").iterdir())) == 5
    one = gf.tl.embed_cells(adata, toy, copy=True)
    np.testing.assert_allclose(adata.obsm["X_geneformer"], one.obsm["X_geneformer"], atol=1e-5)


def test_embeddings_on_disk_can_be_changed_and_outlive_the_folder(adata, toy, tmp_path):
    import shutil

    gf.tl.embed_cells(adata, toy, out=tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    found = adata.obsm["X_geneformer"]
    assert isinstance(found.base, np.memmap)
    found[0] = 1
    adata.write_h5ad(tmp_path / "adata.h5ad")
    assert np.isnan(found[10:15]).all()


@pytest.mark.parametrize("options", [{"agg": "median"}, {"per_cell": True, "genes": ["G1"]}])
def test_sums_only_are_kept(unchanged, toy, tmp_path, options):
    with pytest.raises(gf.DataError, match=r"keeps sums over cells, and .* needs every cell. Call without out="):
        gf.tl.embed_genes(unchanged, toy, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_states_are_stored_about_once_a_minute(adata, toy, tmp_path, monkeypatch):
    n, save = [], RunStore.save
    monkeypatch.setattr(parts, "SECONDS", 60.0)
    monkeypatch.setattr(RunStore, "save", lambda *args: (n.append(1), save(*args)))
    gf.tl.embed_genes(adata, toy, out=tmp_path / "run")
    assert len(n) == 1  # at the end
