"""Which genes are masked, and that the packed loss is that of the stock padded model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fine_tuned import make_cells
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from toys import make_model, make_vocabulary
from transformers import BertForMaskedLM

from scgeneformer._engine.packing import batches
from scgeneformer._errors import ModelError
from scgeneformer._training.dataset import IGNORED, TokenDataset, collate
from scgeneformer._training.masked_genes import MaskedDataset, MaskedGenes, unigram_loss
from scgeneformer._training.objectives import find_objective
from scgeneformer._training.recipe import Recipe
from scgeneformer._training.run import Run

VOCABULARY = make_vocabulary(special=True)
CPU = torch.device("cpu")


def make_masked(vocabulary, n_cells: int = 12, *seed: int) -> MaskedDataset:
    return MaskedDataset.of(make_cells(vocabulary, n_cells), MaskedGenes(vocabulary), *(seed or (0,)))


def make_network(model, **settings):
    recipe = Recipe(**{"dropout": 0.0, "schedule": "constant", **settings})
    return Run(model.bert, recipe, MaskedGenes(model.vocabulary), model.vocabulary.n_tokens, 0, CPU, None, {}).network()


# --- which genes ----------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(VOCABULARY.tokens.tolist()), min_size=1, max_size=60, unique=True), st.integers(0, 99))
def test_genes_alone_are_masked_and_labels_say_what_was_there(genes, seed):
    tokens = np.array([VOCABULARY.cls_token, *genes, VOCABULARY.eos_token], dtype=np.uint16)
    item = {"tokens": tokens, "positions": None}
    found = MaskedGenes(VOCABULARY).hide(item, np.random.default_rng(seed))
    chosen = found["token_labels"] != IGNORED
    assert chosen.sum() == max(1, round(0.15 * len(genes)))
    assert not chosen[[0, -1]].any()
    np.testing.assert_array_equal(found["token_labels"][chosen], tokens[chosen])
    np.testing.assert_array_equal(found["tokens"][~chosen], tokens[~chosen])
    assert set(found["tokens"][chosen].tolist()) <= {VOCABULARY.special["<mask>"], *VOCABULARY.tokens.tolist()}
    np.testing.assert_array_equal(item["tokens"][1:-1], genes)  # the cell itself stays


def test_shares_of_masks_random_genes_and_unchanged_ones():
    vocabulary = make_vocabulary(5000, input_size=5000)
    item = {"tokens": vocabulary.tokens.astype(np.uint16), "positions": None}
    masked = random = same = 0
    for seed in range(20):
        found = MaskedGenes(vocabulary).hide(item, np.random.default_rng(seed))
        chosen = found["token_labels"] != IGNORED
        masked += (is_mask := found["tokens"][chosen] == vocabulary.special["<mask>"]).sum()
        same += (is_same := found["tokens"][chosen] == vocabulary.tokens[chosen]).sum()
        random += (~is_mask & ~is_same).sum()
    assert np.array([masked, random, same]) / (20 * 750) == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_masks_are_drawn_anew_in_every_epoch_and_are_the_same_when_asked_for_again():
    cells = make_masked(VOCABULARY, 12, 3, 0)
    first = [cells[i] for i in range(12)]
    cells.begin_epoch(1)
    second = [cells[i] for i in range(12)]
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(first, second, strict=True))
    cells.begin_epoch(0)
    for one, again in zip(first, (cells[i] for i in range(12)), strict=True):
        np.testing.assert_array_equal(one["tokens"], again["tokens"])
        np.testing.assert_array_equal(one["token_labels"], again["token_labels"])
    others = (make_masked(VOCABULARY, 12, 3, 1), make_masked(VOCABULARY, 12, 4, 0))
    for other in others:  # another part, another seed
        assert any((a["tokens"] != other[i]["tokens"]).any() for i, a in enumerate(first))


def test_processes_that_load_data_draw_the_same_masks():
    cells = make_masked(VOCABULARY)
    loader = DataLoader(cells, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in range(2):
        cells.begin_epoch(epoch)
        there = [item["token_labels"].tolist() for item in loader]
        assert there == [cells[i]["token_labels"].tolist() for i in range(len(cells))]


def test_positions_stay_with_their_tokens():
    cells = make_cells(VOCABULARY)
    cells = replace(cells, positions=np.arange(len(cells.ids)) % 7)
    masked = MaskedDataset.of(cells, MaskedGenes(VOCABULARY), 0)
    some = collate([masked[i] for i in range(3)])
    np.testing.assert_array_equal(some["positions"][0], cells.positions[: cells.offsets[3]])


# --- loss -----------------------------------------------------------------------------------------------------------


def stock_of(network) -> BertForMaskedLM:
    """The stock model with the same weights."""
    config = network.bert.config
    stock = BertForMaskedLM(type(config).from_dict({**config.to_dict(), "attn_implementation": "eager"}))
    tensors = {f"bert.{name}": tensor for name, tensor in network.bert.state_dict().items()} | network.head.tensors()
    missing, extra = stock.load_state_dict(tensors, strict=False)
    assert not extra
    assert set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    stock.tie_weights()
    return stock


def padded(cells) -> dict[str, torch.Tensor]:
    """The same masked cells as the stock model takes them."""
    items = [cells[i] for i in range(len(cells))]
    ids = np.zeros((len(items), max(len(item["tokens"]) for item in items)), dtype=np.int64)
    labels = np.full(ids.shape, IGNORED)
    for row, item in enumerate(items):
        ids[row, : len(item["tokens"])] = item["tokens"]
        labels[row, : len(item["tokens"])] = item["token_labels"]
    mask = np.arange(ids.shape[1]) < cells.lengths[:, None]
    tensors = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "labels": labels}
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


@pytest.mark.parametrize("special", [False, True])
def test_loss_and_gradients_are_those_of_the_stock_model(special):
    model = make_model(special=special)
    network, cells = make_network(model).train(), make_masked(model.vocabulary)
    with torch.no_grad():  # as if trained: every weight of the head tells
        for parameter in network.head.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    stock = stock_of(network).train()
    ours, theirs = network(**collate([cells[i] for i in range(len(cells))])), stock(**padded(cells))
    assert float(ours["loss"].detach()) == pytest.approx(float(theirs.loss.detach()), abs=1e-6)
    ours["loss"].backward()
    theirs.loss.backward()
    grads = dict(stock.named_parameters())
    for own, name in (("dense.weight", "transform.dense.weight"), ("norm.weight", "transform.LayerNorm.weight")):
        np.testing.assert_allclose(
            network.head.get_parameter(own).grad, grads[f"cls.predictions.{name}"].grad, atol=1e-6
        )
    np.testing.assert_allclose(network.head.bias.grad, grads["cls.predictions.bias"].grad, atol=1e-6)
    for name, parameter in network.bert.named_parameters():
        np.testing.assert_allclose(parameter.grad, grads[f"bert.{name}"].grad, atol=1e-6, err_msg=name)


def test_measure_is_the_mean_over_all_masked_genes_whatever_the_batches(monkeypatch, toy):
    network, cells = make_network(toy), make_masked(toy.vocabulary)
    stock = stock_of(network).eval()
    measure = MaskedGenes(toy.vocabulary).measure
    whole = measure(network, cells)
    with torch.no_grad():
        batch = padded(cells)
        out = stock(**batch)
    there = batch["labels"] != IGNORED
    right = (out.logits.argmax(dim=2) == batch["labels"])[there].float().mean()
    assert whole["loss"] == pytest.approx(float(out.loss), abs=1e-6)
    assert whole["accuracy"] == pytest.approx(float(right))
    monkeypatch.setattr("scgeneformer._training.masked_genes.TOKENS_AT_ONCE", 20)
    assert len(list(batches(cells.lengths, 20))) > 3
    assert measure(network, cells) == pytest.approx(whole, abs=1e-6)


def test_the_decoder_is_tied_and_no_weight_of_the_head_twice(toy):
    network = make_network(toy)
    names = dict(network.named_parameters())
    assert "bert.embeddings.word_embeddings.weight" in names
    own = {name for name in names if name.startswith("head.")}
    assert own == {f"head.{name}" for name in ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias")}
    assert set(network.state_dict()) == set(names)


def test_unigram_loss_by_hand():
    vocabulary = make_vocabulary(3)  # tokens 2, 3, 4
    objective = MaskedGenes(vocabulary)
    train = TokenDataset(np.array([2, 3, 2]), np.array([0, 2, 3]), np.empty((2, 0), np.int64))
    np.testing.assert_array_equal(objective.frequencies(train), [0, 0, 3, 2, 1])
    held = MaskedDataset.of(
        TokenDataset(np.array([2, 4]), np.array([0, 1, 2]), np.empty((2, 0), np.int64)), objective, 0
    )
    assert unigram_loss(objective.frequencies(train), held) == pytest.approx(-(np.log(3 / 6) + np.log(1 / 6)) / 2)


def test_a_vocabulary_without_mask_cannot_be_pretrained():
    special = {"<pad>": 0, "<eos>": 1}
    with pytest.raises(ModelError, match=r"The vocabulary has no token <mask>, which pretraining needs\. Give it one"):
        find_objective(replace(VOCABULARY, special=special))
