"""Low-rank adapters: what they train, and that nothing of them is left in the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fine_tuned import changed, make_cells, make_run, save, weights
from safetensors import safe_open

import scgeneformer as gf
from scgeneformer import _optional
from scgeneformer._errors import DataError, MissingExtraError
from scgeneformer._training.lora import add_adapters, merge_adapters
from scgeneformer._training.optimizer import depth_of, parameter_groups

pytest.importorskip("peft")
SETTINGS = {"lora": 2, "learning_rate": 0.05}
ADAPTED = {f"encoder.layer.{i}.attention.self.{name}.weight" for i in range(3) for name in ("query", "value")}


def stirred(bert):
    """The encoder with adapters that do something."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in bert.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    return bert


def test_adapters_change_nothing_at_first(toy):
    cells, run, plain = make_cells(toy.vocabulary), make_run(toy, **SETTINGS), make_run(toy)
    np.testing.assert_array_equal(
        run.task.predict(run.network(), cells)[0], plain.task.predict(plain.network(), cells)[0]
    )


def test_only_adapters_and_head_train(tmp_path, toy):
    run = make_run(toy, **SETTINGS)
    trainable = {name for name, parameter in run.network().named_parameters() if parameter.requires_grad}
    assert len(trainable) == 3 * 2 * 2 + 2
    assert all(".lora_" in name for name in trainable if not name.startswith("head."))
    plain = weights(make_run(toy).network())
    network, _ = run.train(tmp_path, make_cells(toy.vocabulary), None)
    assert changed(plain, weights(network)) == {f"bert.{name}" for name in ADAPTED} | {
        "head.classifier.weight",
        "head.classifier.bias",
    }


def test_adapters_only_where_blocks_are_not_frozen(tmp_path, toy):
    run = make_run(toy, frozen_layers=2, **SETTINGS)
    names = {name for name, parameter in run.encoder().named_parameters() if parameter.requires_grad}
    assert {depth_of(f"bert.{name}", 3) for name in names} == {3}
    with pytest.raises(DataError, match="lora=2 has no block to adapt: frozen_layers=3 freezes all"):
        make_run(toy, frozen_layers=3, **SETTINGS).encoder()


def test_merged_is_unmerged(toy):
    run, cells = make_run(toy, **SETTINGS), make_cells(toy.vocabulary)
    network = run.network()
    first, _ = run.task.predict(network, cells)
    stirred(network.bert)
    apart, _ = run.task.predict(network, cells)
    assert np.abs(apart - first).max() > 1e-3
    merge_adapters(network.bert)
    np.testing.assert_allclose(run.task.predict(network, cells)[0], apart, atol=1e-6)
    assert weights(network.bert).keys() == weights(toy.bert).keys()
    assert changed(weights(toy.bert), weights(network.bert)) == ADAPTED


def test_scale_by_hand(toy):
    """W becomes W + alpha / rank * B A."""
    bert = make_run(toy).encoder()
    before = bert.encoder.layer[1].attention.self.value.weight.detach().clone()
    stirred(add_adapters(bert, 2, alpha=6, dropout=0.0, first_block=0, seed=0))
    value = bert.encoder.layer[1].attention.self.value
    a, b = (getattr(value, name)["default"].weight.detach() for name in ("lora_A", "lora_B"))
    assert a.shape == (2, 16)
    expected = before + 3 * b @ a
    merge_adapters(bert)
    assert torch.allclose(bert.encoder.layer[1].attention.self.value.weight, expected, atol=1e-6)


def test_alpha_is_twice_the_rank_unless_given(toy):
    for settings, scale in (({"lora": 4}, 2.0), ({"lora": 4, "lora_alpha": 2.0}, 0.5)):
        query = make_run(toy, **settings).encoder().encoder.layer[0].attention.self.query
        assert query.scaling["default"] == scale


def test_the_seed_decides(toy):
    state = torch.get_rng_state()
    one, same = (weights(make_run(toy, **SETTINGS).encoder()) for _ in range(2))
    other = weights(make_run(toy, seed=1, **SETTINGS).encoder())
    assert changed(one, same) == set()
    assert {name.split(".")[-3] for name in changed(one, other)} == {"lora_A"}
    assert torch.equal(torch.get_rng_state(), state)


def test_layer_decay_finds_the_block_of_an_adapter(toy):
    network = make_run(toy, **SETTINGS).network()
    groups = parameter_groups(network, 3, learning_rate=0.8, layer_decay=0.5, weight_decay=0.1)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    for i, expected in enumerate([0.1, 0.2, 0.4]):
        adapters = [p for n, p in network.named_parameters() if f"layer.{i}." in n and ".lora_" in n]
        assert [rate[id(p)] for p in adapters] == [pytest.approx(expected)] * 4
    assert len(rate) == 3 * 4 + 2


def test_what_is_saved_is_a_plain_model(tmp_path, toy):
    run, cells = make_run(toy, **SETTINGS), make_cells(toy.vocabulary)
    network, _ = run.train(tmp_path / "run", cells, None)
    folder = save(network, toy, run.recipe, tmp_path / "model")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {name for name in file.keys() if "lora" in name or "base_layer" in name} == set()  # noqa: SIM118
    assert "lora" not in (folder / "config.json").read_text()
    loaded = gf.models.load(folder, device="cpu")
    assert changed(weights(loaded.bert), weights(network.bert)) == set()


class Killed(Exception):
    pass


def test_a_training_with_adapters_goes_on(tmp_path, toy, monkeypatch):
    cells = make_cells(toy.vocabulary)
    run = make_run(toy, epochs=4, batch_size=4, lora=2, learning_rate=0.05, dropout=0.2)
    whole, _ = run.train(tmp_path / "whole", cells, cells)
    seen = []

    def predict(self, network, some):
        seen.append(1)
        if len(seen) == 3:
            raise Killed
        return original(self, network, some)

    original = type(run.task).predict
    with monkeypatch.context() as patched:
        patched.setattr(type(run.task), "predict", predict)
        with pytest.raises(Killed):
            run.train(tmp_path / "cut", cells, cells)
    assert list((tmp_path / "cut").glob("checkpoint-*"))
    again, _ = run.train(tmp_path / "cut", cells, cells)
    assert changed(weights(whole), weights(again)) == set()


def test_without_peft_the_extra_is_named(monkeypatch, toy):
    found = _optional.find_spec
    monkeypatch.setattr(_optional, "find_spec", lambda name: None if name == "peft" else found(name))
    with pytest.raises(MissingExtraError, match=r'lora= needs the library peft.*pip install "scgeneformer\[lora\]"'):
        make_run(toy, **SETTINGS).encoder()
    assert issubclass(MissingExtraError, ImportError)
    make_run(toy).encoder()
