import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import Stop

from scgeneformer import models
from scgeneformer._errors import ModelError

from .conftest import config, masked_lm

FILES = {"config.json", "model.safetensors", "genes.tsv", "aliases.tsv", "geneformer.json"}


def assert_same_vocabulary(a, b):
    for name in ("tokens", "ensembl_ids", "symbols", "medians"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.special, a.input_size, a.aliases, a.target_sum) == (b.special, b.input_size, b.aliases, b.target_sum)


def test_what_is_saved_is_loaded_as_it_was(checkpoint, tmp_path):
    model = models.load(checkpoint, device="cpu")
    folder = models.save(model, tmp_path / "deep" / "saved")
    assert {path.name for path in folder.iterdir()} == FILES
    again = models.load(folder, device="cpu")
    assert again.checksum == model.checksum
    assert_same_vocabulary(again.vocabulary, model.vocabulary)
    state = again.bert.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.bert.state_dict().items())
    assert again.vocabulary.record["checksum"] == model.checksum
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["saved"]


def test_heads_and_digits_are_kept_whatever_the_model_was_loaded_as(checkpoint, tmp_path):
    half = models.load(checkpoint, device="cpu", dtype="bfloat16")
    saved = load_file(models.save(half, tmp_path / "saved") / "model.safetensors")
    source = load_file(checkpoint / "model.safetensors")
    assert set(saved) == set(source)
    assert "cls.predictions.transform.dense.weight" in saved
    assert all(torch.equal(saved[name], tensor) for name, tensor in source.items())


def test_bin_files_become_safetensors(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    state = masked_lm(config(34)).state_dict()
    torch.save(state, checkpoint / "pytorch_model.bin")
    saved = load_file(models.save(checkpoint, tmp_path / "saved") / "model.safetensors")
    assert set(saved) == set(state)
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.items())
    assert models.load(tmp_path / "saved", device="cpu").n_blocks == 2


def test_a_model_without_files_can_be_saved(checkpoint, tmp_path):
    from dataclasses import replace

    by_hand = replace(models.load(checkpoint, device="cpu"), files=None)
    again = models.load(models.save(by_hand, tmp_path / "saved"), device="cpu")
    state = again.bert.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in by_hand.bert.state_dict().items())


def test_nothing_is_overwritten_unasked(checkpoint, ours):
    model = models.load(checkpoint, device="cpu")
    before = (ours / "model.safetensors").read_bytes()
    with pytest.raises(ModelError, match=r"is not empty.*overwrite=True"):
        models.save(model, ours)
    assert (ours / "model.safetensors").read_bytes() == before


def test_overwriting_replaces_the_model_and_nothing_else(checkpoint, ours):
    (ours / "notes.txt").write_text("mine")
    (ours / "pytorch_model.bin").write_bytes(b"old")
    models.save(checkpoint, ours, overwrite=True)
    assert {path.name for path in ours.iterdir()} == FILES | {"notes.txt"}
    assert models.load(ours, device="cpu").checksum == models.load(checkpoint, device="cpu").checksum


def test_a_folder_without_a_model_is_never_overwritten(checkpoint, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("...")
    with pytest.raises(ModelError, match="holds files but no model"):
        models.save(checkpoint, folder, overwrite=True)
    with pytest.raises(ModelError, match="is a file"):
        models.save(checkpoint, folder / "chapter1.tex")


def test_an_empty_folder_is_filled(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    models.save(checkpoint, tmp_path / "empty")
    assert models.load(tmp_path / "empty", device="cpu").n_blocks == 2


def test_a_model_can_be_saved_in_its_place(ours):
    models.save(ours, ours, overwrite=True)
    assert models.load(ours, device="cpu").n_blocks == 2


def test_a_failure_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
    from scgeneformer.models import _save

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(_save, "write_vocabulary", fail)
    with pytest.raises(OSError, match="disk full"):
        models.save(checkpoint, tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_files_are_written_on_the_disk_on_which_they_will_be(ours, tmp_path):
    """A directory that is there may be a mounted one, into which nothing can be moved from beside it."""
    from scgeneformer.models import _save

    for folder, near in ((ours, ours), (tmp_path / "new", tmp_path)):
        left = near / f".{folder.name}.new"  # by a process that was killed
        left.mkdir()
        (left / "model.safetensors").touch()
        with _save.written_beside(folder) as fresh:
            assert fresh.parent == near
            (fresh / "config.json").write_text("{}")
        assert not any(path.name.startswith(".") for path in near.iterdir())
        assert (folder / "config.json").read_text() == "{}"


def test_an_interrupt_waits_until_one_model_has_taken_the_place_of_another(checkpoint, ours, monkeypatch):
    from scgeneformer.models import _save

    real = os.replace
    monkeypatch.setattr(_save.os, "replace", lambda *paths: (real(*paths), signal.raise_signal(signal.SIGINT)))
    for name in ("metrics.json", "pytorch_model.bin"):
        (ours / name).write_text("of the former model")
    with pytest.raises(KeyboardInterrupt):
        models.save(checkpoint, ours, overwrite=True)
    assert {path.name for path in ours.iterdir()} == FILES
    assert models.load(ours, device="cpu").checksum == models.load(checkpoint, device="cpu").checksum


def test_a_process_that_is_killed_between_two_files_leaves_no_mixture(checkpoint, ours, monkeypatch):
    from scgeneformer.models import _save

    real, moved = os.replace, []

    def until_killed(*paths):
        moved.append(paths)
        if len(moved) == 2:
            raise Stop
        real(*paths)

    monkeypatch.setattr(_save.os, "replace", until_killed)
    with pytest.raises(Stop):
        models.save(checkpoint, ours, overwrite=True)
    with pytest.raises(ModelError, match=r"config\.json"):
        models.load(ours, device="cpu")


def test_weights_that_changed_since_loading_are_not_saved(checkpoint, tmp_path):
    model = models.load(checkpoint, device="cpu")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is gone or has changed"):
        models.save(model, tmp_path / "saved")
