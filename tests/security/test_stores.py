"""Zarr stores whose chunks are pickles, and trainings that are taken up again."""

import json
import os
import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
import zarr
from toys import Stop, make_adata

import scgeneformer as gf
from scgeneformer._adata.disk.run_store import RunStore
from scgeneformer._errors import DataError
from scgeneformer._training.unfinished import open_folder


class Call:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


PICKLED = [
    {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None},
    {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}], "compressor": None},
    {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle", "protocol": 5}},
    {"dtype": "<i8", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None},
    {"dtype": "<i8", "filters": None, "compressor": {"id": "pickle", "protocol": 5}},
]


def write_pickled(folder, how, bait):
    folder.mkdir(parents=True, exist_ok=True)
    text = how["dtype"] == "|O"
    how = {"zarr_format": 2, "shape": [12], "chunks": [12], "fill_value": "" if text else 0, "order": "C", **how}
    (folder / ".zarray").write_text(json.dumps(how))
    kind = "string-array" if text else "array"
    (folder / ".zattrs").write_text(json.dumps({"encoding-type": kind, "encoding-version": "0.2.0"}))
    (folder / "0").write_bytes(pickle.dumps(Call(bait)))


@pytest.mark.parametrize("how", PICKLED, ids=str)
def test_parts_of_a_run_that_are_pickles_count_as_missing(tmp_path, how):
    part = RunStore(tmp_path / "run", {"a": 1}).parts / "0-s"
    part.mkdir()
    (part / ".zgroup").write_text('{"zarr_format": 2}')
    (part / ".zattrs").write_text('{"empty": "{}", "checksum": ""}')
    write_pickled(part / "x", how, tmp_path / "executed")
    assert RunStore(tmp_path / "run", {"a": 1}).load("0", "s") is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("how", PICKLED, ids=str)
def test_cells_that_are_pickles_are_not_read(tmp_path, how):
    """What zarr and anndata do with them."""
    path, bait = tmp_path / "cells.zarr", tmp_path / "executed"
    with ad.settings.override(zarr_write_format=2):
        make_adata().write_zarr(path)
    (path / ".zmetadata").unlink(missing_ok=True)
    for file in (path / "obs" / "donor").iterdir():
        file.unlink() if file.is_file() else None
    write_pickled(path / "obs" / "donor", how, bait)
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever the two say
        ad.read_zarr(path)
    assert not bait.exists()


def attributes(path, **changes):
    group = zarr.open_group(path, mode="a")
    group.attrs.update(changes)


EMPTY = ["{", "5", '{"x": ["<f4", [1000000000000, 1000000]]}', '{"x": ["O", [0]]}', '{"x": ["evil", [0]]}', "[" * 10**5]


@pytest.mark.parametrize("empty", EMPTY, ids=lambda text: text[:20])
def test_parts_that_lie_count_as_missing(tmp_path, empty):
    with RunStore(tmp_path / "run", {"a": 1}) as store:
        store.save("0", "s", {"x": np.arange(3)})
    attributes(store.parts / "0-s", empty=empty)
    assert RunStore(tmp_path / "run", {"a": 1}).load("0", "s") is None


@pytest.mark.parametrize("stored", ["{", "[" * 10**5, "5", "[]"], ids=lambda text: text[:20])
def test_manifests_that_lie_are_refused(tmp_path, stored):
    RunStore(tmp_path / "run", {"a": 1})
    attributes(tmp_path / "run", manifest=stored)
    with pytest.raises(DataError, match=r"[Nn]ame a new folder"):
        RunStore(tmp_path / "run", {"a": 1})


@pytest.mark.parametrize("choices", ["{", "[]", "5", '{"tokens_per_batch": "x"}'], ids=str)
def test_choices_that_lie_are_refused(tmp_path, choices):
    RunStore(tmp_path / "run", {"a": 1}, tokens_per_batch=5)
    attributes(tmp_path / "run", choices=choices)
    with pytest.raises(DataError, match=r"[Nn]ame a new folder"):
        RunStore(tmp_path / "run", {"a": 1}, tokens_per_batch=5)


@pytest.mark.parametrize("name", ["parts", ".lock"])
def test_a_store_of_links_is_refused_and_what_they_lead_to_left_alone(tmp_path, name):
    """What a killed run left in the parts is removed when the next one begins."""
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    path = RunStore(tmp_path / "run", {"a": 1}).path / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "home")
    with pytest.raises(DataError, match=rf"{name} is a link, which no run makes: .* Name a new folder"):
        RunStore(tmp_path / "run", {"a": 1})
    assert (tmp_path / "home" / ".ssh").is_dir()


@pytest.mark.parametrize("content", ["{", "[]", "5", "[" * 10**5], ids=lambda text: text[:20])
def test_requests_of_trainings_that_lie_are_refused(tmp_path, content):
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(DataError, match=r"says of no training that can be gone on with|differs in") as caught:
        open_folder(tmp_path, {"a": 1}, overwrite=False)
    assert "out=..." in str(caught.value)
    assert "begin anew: overwrite=True" in str(caught.value)
    (tmp_path / "checkpoints").mkdir()
    assert open_folder(tmp_path, {"a": 1}, overwrite=True) == tmp_path / "checkpoints"
    assert json.loads((tmp_path / "training.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]


def test_a_training_killed_while_its_request_is_written_locks_nothing(tmp_path, monkeypatch):
    def cut_off(path, text, **kwargs):
        path.write_bytes(text[:5].encode())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", cut_off)
        with pytest.raises(KeyboardInterrupt):
            open_folder(tmp_path, {"a": 1}, overwrite=False)
    assert not list(tmp_path.iterdir())
    open_folder(tmp_path, {"a": 1}, overwrite=False)
    written = (tmp_path / "training.json").stat().st_mtime_ns
    open_folder(tmp_path, {"a": 1}, overwrite=False)  # goes on, and writes nothing
    assert (tmp_path / "training.json").stat().st_mtime_ns == written


def test_checkpoints_of_a_training_run_nothing(tmp_path, toy, stop_after):
    """Trainer reads them with weights_only; a training that was stopped is taken up from its own folder only."""

    def train():
        gf.tl.train_classifier(
            make_adata(48), "cell_type", toy, out=tmp_path / "out", epochs=2, batch_size=12, split_by=None
        )

    stop_after(7)
    with pytest.raises(Stop):
        train()
    (checkpoint,) = (tmp_path / "out" / "checkpoints").rglob("checkpoint-*")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"):
        whole = (checkpoint / name).read_bytes()
        for write in (pickle_to, torch_to):
            write(Call(tmp_path / "executed"), checkpoint / name)
            with pytest.raises(Exception):  # noqa: B017, PT011  whatever Trainer says
                train()
        (checkpoint / name).write_bytes(whole)
    assert not (tmp_path / "executed").exists()
    train()


def pickle_to(content, path):
    path.write_bytes(pickle.dumps(content))


def torch_to(content, path):
    torch.save({"a": content}, path)
