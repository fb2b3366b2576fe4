import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from safetensors.torch import load_file

from scgeneformer import models
from scgeneformer.models import _cache, _geneformer, _weights
from scgeneformer.models._reference import refer_to

from .conftest import config, write_pickles, write_weights


def reads():
    return sum(_weights.READS.values())


def test_a_second_load_reads_nothing(checkpoint):
    first = models.load(checkpoint, device="cpu")
    assert models.load(str(checkpoint), device=torch.device("cpu"), dtype=torch.float32) is first
    assert reads() == 1
    info = models.cache_info()
    assert info.columns.tolist() == ["model", "device", "dtype", "MB", "hits"]
    assert info.iloc[0].tolist() == ["tiny", "cpu", "float32", first.n_parameters * 4 / 1e6, 1]


def test_threads_load_a_model_once(checkpoint):
    barrier = Barrier(8)

    def load(_):
        barrier.wait()
        return models.load(checkpoint, device="cpu")

    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load, range(8)))
    assert all(model is loaded[0] for model in loaded)
    assert reads() == 1
    assert models.cache_info()["hits"].tolist() == [7]


def test_another_dtype_is_converted_from_float32(checkpoint):
    full = models.load(checkpoint, device="cpu")
    half = models.load(checkpoint, device="cpu", dtype="bfloat16")
    assert reads() == 1
    assert half.vocabulary is full.vocabulary
    weight = "embeddings.word_embeddings.weight"
    assert torch.equal(half.bert.state_dict()[weight], full.bert.state_dict()[weight].bfloat16())
    assert {p.data_ptr() for p in full.bert.parameters()}.isdisjoint(p.data_ptr() for p in half.bert.parameters())
    assert models.cache_info()["dtype"].tolist() == ["float32", "bfloat16"]


def test_float32_is_never_made_from_half_precision(checkpoint):
    models.load(checkpoint, device="cpu", dtype="bfloat16")
    full = models.load(checkpoint, device="cpu", dtype="float32")
    assert reads() == 2
    weight = full.bert.state_dict()["embeddings.word_embeddings.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())


def test_a_loaded_model_comes_back_as_it_is_or_as_its_twin(checkpoint):
    half = models.load(checkpoint, device="cpu", dtype="bfloat16")
    assert models.load(half) is half
    assert models.load(half, device="cpu", dtype="bfloat16") is half
    full = models.load(half, dtype="float32")
    assert models.load(checkpoint, device="cpu", dtype="float32") is full
    assert models.load(full, dtype="bfloat16") is half


def test_a_model_without_files_has_a_twin_in_another_dtype(checkpoint):
    by_hand = replace(models.load(checkpoint, device="cpu"), files=None)
    twin = models.load(by_hand, dtype="float16")
    assert twin.dtype == torch.float16
    assert reads() == 1


def test_files_that_change_are_read_again(checkpoint):
    old = models.load(checkpoint, device="cpu")
    write_weights(checkpoint, config(34), seed=5)
    new = models.load(checkpoint, device="cpu")
    assert new is not old
    assert new.checksum != old.checksum
    assert len(models.cache_info()) == 1
    time.sleep(0.01)
    os.utime(checkpoint / "config.json")
    assert models.load(checkpoint, device="cpu") is not new


def test_models_whose_files_are_gone_are_forgotten(tmp_path):
    folders = [write_pickles(write_weights(tmp_path / f"m{i}", seed=i)) for i in range(3)]
    for folder in folders:
        models.load(folder, device="cpu")
        shutil.rmtree(folder)
    assert models.cache_info()["model"].tolist() == ["m2"]


def to_bin(folder):
    """Weights as `pytorch_model.bin`; gives the other file."""
    file = folder / "model.safetensors"
    torch.save(load_file(file), folder / "pytorch_model.bin")
    return file.rename(folder / "kept")


def test_a_weight_file_of_another_name_takes_the_place_of_the_former(checkpoint):
    kept = to_bin(checkpoint)
    models.load(checkpoint, device="cpu")
    kept.rename(checkpoint / "model.safetensors")
    new = models.load(checkpoint, device="cpu")
    assert reads() == 2
    assert len(models.cache_info()) == 1
    assert models.load(checkpoint, device="cpu") is new


def test_workers_find_a_weight_file_of_another_name(checkpoint):
    former = refer_to(models.load(checkpoint, device="cpu"))
    former.load("cpu", "float32")
    to_bin(checkpoint)
    model = models.load(checkpoint, device="cpu")
    assert refer_to(model).load("cpu", "float32") is model
    assert model.checksum != former.checksum


def test_a_relative_path_is_the_same_model_from_anywhere(checkpoint, tmp_path, monkeypatch):
    dictionaries = write_pickles(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    model, other = models.load("tiny", device="cpu"), models.load("tiny", dictionaries="other", device="cpu")
    monkeypatch.chdir(dictionaries)
    assert models.load(checkpoint, device="cpu") is model
    assert models.load(checkpoint, dictionaries=dictionaries, device="cpu") is other
    assert (model.source, model.folder) == (str(checkpoint), checkpoint)
    assert models.load(model, dtype="bfloat16").dtype == torch.bfloat16


def test_other_dictionaries_are_another_model(tmp_path):
    folder = write_weights(tmp_path / "m")
    a, b = write_pickles(tmp_path / "a"), write_pickles(tmp_path / "b")
    assert models.load(folder, dictionaries=a, device="cpu") is not models.load(folder, dictionaries=b, device="cpu")
    assert models.load(folder, dictionaries=a, device="cpu") is models.load(folder, dictionaries=str(a), device="cpu")


def test_a_failed_load_leaves_nothing_behind_and_can_be_repeated(checkpoint, monkeypatch):
    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(_geneformer, "read_tensors", fail)
        with pytest.raises(MemoryError):
            models.load(checkpoint, device="cpu")
    assert models.cache_info().empty
    assert models.load(checkpoint, device="cpu").n_blocks == 2


def test_clear_cache_forgets_all_models(checkpoint):
    models.load(checkpoint, device="cpu")
    models.clear_cache()
    assert models.cache_info().empty
    models.load(checkpoint, device="cpu")
    assert reads() == 2


def test_the_least_recently_used_models_go_when_memory_is_short(tmp_path, monkeypatch):
    folders = [write_pickles(write_weights(tmp_path / f"m{i}", seed=i)) for i in range(3)]
    for folder in folders[:2]:
        models.load(folder, device="cpu")
    models.load(folders[0], device="cpu")
    size = (folders[0] / "model.safetensors").stat().st_size

    def free(_):
        return 2 * size - len(models.cache_info()) * size // 2

    monkeypatch.setattr(_cache, "free_memory", free)
    models.load(folders[2], device="cpu")
    assert models.cache_info()["model"].tolist() == ["m0", "m2"]
    monkeypatch.setattr(_cache, "free_memory", lambda _: 10 * size)
    models.load(folders[1], device="cpu")
    assert models.cache_info()["model"].tolist() == ["m0", "m2", "m1"]
