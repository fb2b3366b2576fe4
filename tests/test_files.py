"""Files: opened without reading the matrices, results added, replaced in one step or not at all."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem
from anndata.tests.helpers import assert_equal
from toys import make_adata

from scgeneformer import DataError
from scgeneformer import _publish as publish
from scgeneformer._adata.counts import open_counts
from scgeneformer._adata.disk import convert, files
from scgeneformer._adata.disk.files import edited, opened

SUFFIXES = [".h5ad", ".zarr"]


@pytest.fixture
def rich():
    """Every slot filled, with labels that are no keys."""
    adata = make_adata()
    adata.raw = adata.copy()
    adata.layers["csc"] = adata.X.tocsc()
    adata.layers["dense"] = adata.X.toarray()
    adata.obsm["X_pca"] = np.arange(24.0).reshape(12, 2)
    adata.obsp["distances"] = sp.eye(12, format="csr")
    adata.uns["log"] = {"base": 2, "names": np.array(["CD4+/CD25 T Reg"])}
    return adata


@pytest.fixture(params=SUFFIXES)
def path(request, rich, tmp_path):
    return store(rich, tmp_path / f"data{request.param}")


def store(adata, path):
    files.format_of(path).write(adata, path)
    return path


def read(path):
    return files.format_of(path).read(path)


def add_results(adata):
    """One result of each kind that gf writes; returns the AnnData."""
    adata.obs["n"] = np.arange(12, dtype=np.int32)
    adata.obs["label"] = pd.Categorical(np.resize(["a", "b"], 12))
    adata.var["id"] = [f"gene {i}" for i in range(40)]
    adata.obsm["X_new"] = np.ones((12, 3), dtype=np.float32)
    adata.obsm["X_pca"] = np.ones((12, 5))
    adata.varm["v"] = np.ones((40, 2, 3))
    adata.layers["shift"] = sp.eye(12, 40, format="csr", dtype=np.float32)
    adata.uns["X_new"] = {"params": {"layer": 2, "model": "mini", "groupby": np.array(["donor"])}}
    adata.uns["X_new_donor"] = pd.DataFrame(np.ones((2, 2)), index=["a", "b"], columns=["0", "1"])
    return adata


def left(folder):
    """Names in a folder, hidden ones included."""
    return sorted(os.listdir(folder))


def test_matrices_stay_on_disk_and_give_their_rows(path, rich):
    with opened(path) as adata:
        matrices = {"X": adata.X, "raw": adata.raw.X, "csc": adata.layers["csc"], "dense": adata.layers["dense"]}
        assert not any(isinstance(matrix, np.ndarray) or sp.issparse(matrix) for matrix in matrices.values())
        for name in ("X", "raw", "dense"):
            rows = matrices[name][3:5]
            np.testing.assert_array_equal(rows.toarray() if sp.issparse(rows) else rows, rich.X[3:5].toarray())
        pd.testing.assert_frame_equal(adata.obs, rich.obs)
        assert adata.uns["log"]["base"] == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_may_have_no_matrix_and_nothing_else(suffix, tmp_path):
    path = store(ad.AnnData(obs=pd.DataFrame(index=["c0", "c1"])), tmp_path / f"data{suffix}")
    with edited(path, path, overwrite=True) as adata:
        assert adata.X is None
        assert adata.raw is None
        adata.obs["n"] = 1
    assert read(path).obs["n"].tolist() == [1, 1]


def test_another_format_is_written_piece_by_piece(path, rich, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "BYTES_AT_A_TIME", 500)
    rich.uns["nested"] = {"matrix": sp.eye(3, format="csc"), "none": np.empty((0, 2)), "scalar": 2.5, "flag": True}
    store(rich, path)
    target = tmp_path / f"new{next(suffix for suffix in SUFFIXES if suffix != path.suffix)}"
    monkeypatch.setattr(files, "_rewrite", None)
    with edited(path, target) as adata:
        adata.obs["n"] = np.arange(12)
    rich.obs["n"] = np.arange(12)
    assert_equal(read(target), rich, exact=True)
    with files.opened(target) as adata:
        assert_equal(adata.layers["dense"][2:4], rich.layers["dense"][2:4])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_new_file_is_the_old_one_with_the_results(path, rich, suffix, tmp_path):
    target = tmp_path / f"new{suffix}"
    before = read(path)
    with edited(path, target) as adata:
        add_results(adata)
    assert_equal(read(target), add_results(rich), exact=True)
    assert_equal(read(path), before, exact=True)
    assert left(tmp_path) == sorted([path.name, target.name])


def test_in_place_the_file_gains_the_results_and_can_do_so_again(path, rich):
    for _ in range(2):
        with edited(path, path, overwrite=True) as adata:
            add_results(adata)
    assert_equal(read(path), add_results(rich), exact=True)
    assert left(path.parent) == [path.name]


def test_what_is_removed_is_not_in_the_new_file(path, rich, tmp_path):
    rich.varm["v"] = np.ones((40, 2))
    rich.var["extra"] = "x"
    store(rich, path)
    gone = [("obs", "donor"), ("obsm", "X_pca"), ("varm", "v"), ("layers", "csc"), ("uns", "log")]
    gone += [("var", column) for column in rich.var]

    def change(adata):
        for slot, key in gone:
            del getattr(adata, slot)[key]
        adata.obs["n"] = np.arange(12)

    target = tmp_path / f"new{path.suffix}"
    with edited(path, target) as adata:
        change(adata)
    change(rich)
    assert_equal(read(target), rich, exact=True)
    with edited(target, target, overwrite=True) as adata:
        assert [key for slot, key in gone if key in getattr(adata, slot)] == []


def test_a_file_is_the_same_bytes_but_for_the_results(rich, tmp_path):
    path, target = store(rich, tmp_path / "data.h5ad"), tmp_path / "new.h5ad"
    with h5py.File(path, "r+") as root:
        root.attrs["note"] = "of another program"
    with edited(path, target) as adata:
        adata.obs["n"] = np.arange(12)
    with h5py.File(target) as root:
        assert root.attrs["note"] == "of another program"


def test_an_error_in_the_block_writes_nothing(path, rich, tmp_path):
    def stop(adata):
        add_results(adata)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), edited(path, path, overwrite=True) as adata:
        stop(adata)
    assert_equal(read(path), rich, exact=True)
    assert left(tmp_path) == [path.name]


@pytest.mark.parametrize("step", ["_duplicate", "_change"])
def test_an_error_while_writing_leaves_the_old_file(path, rich, tmp_path, monkeypatch, step):
    write = getattr(files, step)

    def fail(*args):
        write(*args)
        raise OSError("No space left on device")

    monkeypatch.setattr(files, step, fail)
    with pytest.raises(OSError, match="No space"), edited(path, path, overwrite=True) as adata:
        add_results(adata)
    assert_equal(read(path), rich, exact=True)
    assert left(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="directories are exchanged on Linux")
def test_a_folder_is_never_missing(rich, tmp_path, monkeypatch):
    path = store(rich, tmp_path / "data.zarr")
    monkeypatch.setattr(publish, "_swap", None)
    with edited(path, path, overwrite=True) as adata:
        add_results(adata)
    assert_equal(read(path), add_results(rich), exact=True)
    assert left(tmp_path) == [path.name]


def test_an_error_in_the_last_step_brings_the_old_file_back(path, rich, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    replace = os.replace

    def fail(source, target):
        if os.fspath(target) == os.fspath(path) and ".result" in os.fspath(source) and not monkeypatched:
            monkeypatched.append(source)
            raise OSError("gone")
        replace(source, target)

    monkeypatched = []
    monkeypatch.setattr(publish.os, "replace", fail)
    with pytest.raises(OSError, match="gone"), edited(path, path, overwrite=True) as adata:
        add_results(adata)
    assert_equal(read(path), rich, exact=True)
    assert left(tmp_path) == [path.name]


def test_the_old_file_can_be_read_until_the_new_one_is_complete(path, rich, monkeypatch):
    add = files._change

    def look(*args):
        add(*args)
        assert_equal(read(path), rich, exact=True)

    monkeypatch.setattr(files, "_change", look)
    with edited(path, path, overwrite=True) as adata:
        add_results(adata)


def test_a_file_changed_in_the_meantime_is_not_overwritten(path, tmp_path):
    changed = add_results(make_adata())

    def somebody_else():
        with publish.published(path) as fresh:
            store(changed, fresh)

    with pytest.raises(DataError, match="was changed"), edited(path, path, overwrite=True):
        somebody_else()
    assert_equal(read(path), changed, exact=True)


@pytest.mark.parametrize("path", [".zarr"], indirect=True)
def test_a_chunk_changed_in_the_meantime_is_noticed(path, rich, tmp_path):
    chunk = next(file for file in sorted((path / "X" / "data").rglob("*")) if file.is_file() and file.name[0] in "c0")
    with pytest.raises(DataError, match="was changed while it was being read"), edited(path, tmp_path / "new.zarr"):
        chunk.write_bytes(chunk.read_bytes())
    with pytest.raises(DataError, match="was changed"), edited(path, tmp_path / "new.zarr"):
        chunk.unlink()
    assert left(tmp_path) == [path.name]


def test_a_link_stays_a_link_and_the_mode_stays(rich, tmp_path):
    (tmp_path / "far").mkdir()
    path, link = store(rich, tmp_path / "far" / "data.h5ad"), tmp_path / "link.h5ad"
    link.symlink_to(path)
    path.chmod(0o640)
    with edited(link, link, overwrite=True) as adata:
        add_results(adata)
    assert link.is_symlink()
    assert "X_new" in read(path).obsm
    assert path.stat().st_mode & 0o777 == 0o640


def test_targets_that_cannot_be_written_are_refused_before_the_work(path, rich, tmp_path):
    existing = store(rich, tmp_path / "existing.h5ad")
    read_only = store(rich, tmp_path / "fixed.h5ad")
    read_only.chmod(0o444)
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "notes.zarr" / "notes.txt").write_text("precious")
    for target, overwrite, error, message in [
        (existing, False, FileExistsError, "exists already"),
        (read_only, True, PermissionError, "read-only"),
        (tmp_path / "nowhere" / "new.h5ad", False, FileNotFoundError, "no directory"),
        (tmp_path / "new.loom", False, DataError, "suffix must be"),
        (tmp_path / "notes.zarr", True, FileExistsError, "a folder of other things, which are not replaced"),
    ]:
        with pytest.raises(error, match=message), edited(path, target, overwrite=overwrite):
            pytest.fail("the work was begun")


def test_files_that_are_no_anndata_are_named(tmp_path):
    (tmp_path / "text.h5ad").write_text("counts")
    (tmp_path / "empty.zarr").mkdir()
    with h5py.File(tmp_path / "part.h5ad", "w") as root:
        root.attrs["encoding-type"] = "anndata"
        write_elem(root, "X", np.ones((2, 3)))
    for name in ("text.h5ad", "empty.zarr", "part.h5ad"):
        with pytest.raises(DataError, match=f"{name} cannot be read"), opened(tmp_path / name):
            pass
    with pytest.raises(FileNotFoundError, match="There is no file"), opened(tmp_path / "none.h5ad"):
        pass


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_notes_that_anndata_does_not_know_stay_or_are_left_out_and_said_to_be(path, rich, suffix, tmp_path, log):
    target = tmp_path / f"new{suffix}"
    with files.format_of(path).open(path, "r+") as root:
        for group in (root["uns"].create_group("later"), root["uns/log"].create_group("later")):
            group.attrs.update({"encoding-type": "future-thing", "encoding-version": "9.0"})
    with edited(path, target) as adata:
        assert adata.uns.keys() == set()
        adata.obs["n"] = np.arange(12)
    told = (
        f"uns of {path} holds what this version of anndata cannot read: 'later', 'log'. It stays in copies of the same"
    )
    assert told in log()
    with files.format_of(target).open(target, "r") as root:
        assert ("later" in root["uns"]) == ("later" in root["uns/log"]) == (suffix == path.suffix)
        assert root["uns/log/base"][()] == 2
        assert root["obs/n"][:].tolist() == list(range(12))


@pytest.mark.parametrize("place", ["layers", "obs"])
def test_other_elements_that_anndata_does_not_know_are_named(path, place):
    with files.format_of(path).open(path, "r+") as root:
        root[place].create_group("later").attrs.update({"encoding-type": "future", "encoding-version": "9.0"})
        if place == "obs":
            root["obs"].attrs["column-order"] = ["later"]
    with pytest.raises(DataError, match=rf"{path.name} cannot be read as an AnnData.*future.*'later'"), opened(path):
        pass


@pytest.mark.parametrize("matrix", ["X", "csc", "dense"])
def test_a_damaged_matrix_is_told_with_its_file_and_cells(path, rich, matrix, monkeypatch):
    """Chunks of zarr are overwritten, and of h5ad behind a filter that does not know them any more."""
    rich.layers = {"X": rich.X, "dense": rich.layers["dense"], "csc": rich.layers["csc"]}
    damage(rich, path, matrix)
    with opened(path) as adata:
        told = rf"/layers/{matrix}(/data)? of .*{path.name}(, cells 0 to 11,)? cannot be read: .* or another copy\."
        with pytest.raises(DataError, match=told):
            open_counts(adata, matrix)
        assert open_counts(adata).rows(0, 12).nnz == rich.X.nnz


def damage(adata, path, matrix):
    if path.suffix == ".h5ad":
        adata.write_h5ad(path, compression="gzip")
        with h5py.File(path) as root:
            element = root["layers"][matrix]
            place = (element if matrix == "dense" else element["data"]).id.get_chunk_info(0)
        content = bytearray(path.read_bytes())
        content[place.byte_offset : place.byte_offset + place.size] = b"\xff" * place.size
        path.write_bytes(content)
        return
    store(adata, path)
    for chunk in (path / "layers" / matrix / ("" if matrix == "dense" else "data")).rglob("*"):
        if chunk.is_file() and chunk.name[0] in "0c":
            chunk.write_bytes(b"garbage")


def test_counts_of_a_file_that_was_closed_are_told(path):
    with opened(path) as adata:
        counts = open_counts(adata)
    if path.suffix == ".h5ad":  # zarr stores are not closed
        with pytest.raises(
            DataError, match=r"/X of .*data\.h5ad, cells 2 to 4, cannot be read: .* damaged, closed or gone\."
        ):
            counts.rows(2, 5)
        with pytest.raises(DataError, match="A matrix of a file that was closed, cells 0 to 11, cannot be read"):
            open_counts(adata)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_that_another_call_finished_first_is_replaced_only_if_asked(path, tmp_path, overwrite):
    target = tmp_path / f"new{path.suffix}"

    def embed(meanwhile):
        with edited(path, target, overwrite=overwrite) as adata:
            adata.obs["n"] = int(meanwhile is None)
            if meanwhile is not None:
                meanwhile(None)

    with nullcontext() if overwrite else pytest.raises(FileExistsError, match="in the meantime, and is left as it is"):
        embed(embed)
    assert read(target).obs["n"].unique().tolist() == [0 if overwrite else 1]
    assert left(tmp_path) == sorted([path.name, target.name])


def test_results_do_not_go_into_the_store_that_is_read(rich, tmp_path):
    path = store(rich, tmp_path / "data.zarr")
    for name in ("x.zarr", "obsm/x.h5ad"):
        with pytest.raises(OSError, match=r"would be a part of .*data\.zarr"), edited(path, path / name):
            pytest.fail("the work was begun")


def test_files_of_early_anndata_are_read_and_rewritten(tmp_path):
    """The layout of 2018: tables as compound data sets, no encoding named."""
    path, target = tmp_path / "old.h5ad", tmp_path / "new.h5ad"
    with h5py.File(path, "w") as root:
        root["X"] = np.ones((2, 3), dtype=np.float32)
        root["obs"] = np.array([(b"c0", 1), (b"c1", 2)], dtype=[("index", "S2"), ("n", "<i4")])
        root["var"] = np.array([(b"g0",), (b"g1",), (b"g2",)], dtype=[("index", "S2")])
    with edited(path, target) as adata:
        adata.obsm["X_new"] = np.zeros((2, 1))
    found = ad.read_h5ad(target)
    assert found.obs_names.tolist() == ["c0", "c1"]
    assert found.obs["n"].tolist() == [1, 2]
    assert found.obsm["X_new"].shape == (2, 1)
