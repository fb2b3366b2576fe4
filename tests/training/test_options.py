"""Each setting of a recipe does what it says, and what is saved is a model like any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fine_tuned import SGD, changed, make_cells, make_run, save, weights
from sklearn.utils.class_weight import compute_class_weight
from toys import make_adata, make_model

import scgeneformer as gf
from scgeneformer._engine.packing import pack
from scgeneformer._errors import DataError
from scgeneformer._training.dataset import IGNORED, collate
from scgeneformer._training.encoder import with_cls
from scgeneformer._training.optimizer import depth_of, parameter_groups
from scgeneformer._training.run import balanced_weights
from scgeneformer.models._classifier import load_classifier
from scgeneformer.tl._training import begin

DEPTHS = {0: "bert.embeddings.", 1: "bert.encoder.layer.0.", 2: "bert.encoder.layer.1.", 3: "bert.encoder.layer.2."}


def trained_by(run, cells, folder):
    """Names of the weights that a training changes, and the network."""
    before = weights(run.network())
    network, _ = run.train(folder, cells, None)
    return changed(before, weights(network)), network


def starts(names: set[str]) -> set[str]:
    """Parts of the network that the weights are in."""
    return {start for name in names for start in (*DEPTHS.values(), "head.") if name.startswith(start)}


# --- what is trained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_frozen", [0, 2, 3])
def test_frozen_blocks_stay(tmp_path, toy, n_frozen):
    run = make_run(toy, frozen_layers=n_frozen, learning_rate=0.1)
    names, _ = trained_by(run, make_cells(toy.vocabulary), tmp_path)
    assert starts(names) == {DEPTHS[0], *list(DEPTHS.values())[n_frozen + 1 :], "head."}


def test_all_frozen_trains_the_head_alone(tmp_path, toy):
    run = make_run(toy, frozen_layers=3, freeze_embeddings=True, head="mlp", pooling="first", learning_rate=0.1)
    names, network = trained_by(run, make_cells(toy.vocabulary), tmp_path)
    assert names == {"head.dense.weight", "head.dense.bias", "head.classifier.weight", "head.classifier.bias"}
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_layer_decay_by_hand(toy):
    network = make_run(toy).network()
    groups = parameter_groups(network, 3, learning_rate=0.8, layer_decay=0.5, weight_decay=0.1)
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(rate) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        by_hand = {"bert.embeddings": 0.05, "layer.0.": 0.1, "layer.1.": 0.2, "layer.2.": 0.4, "head.": 0.8}
        expected = next(value for part, value in by_hand.items() if part in name)
        decay = 0.0 if "LayerNorm" in name or name.endswith("bias") else 0.1
        assert rate[id(parameter)] == (pytest.approx(expected), decay), name


def test_layer_decay_is_what_a_training_uses(tmp_path, toy):
    """With plain gradient steps a block moves by its own rate: half the rate, half the way."""
    cells, common = make_cells(toy.vocabulary), {"learning_rate": 0.1, "weight_decay": 0.0, "arguments": SGD}
    before = weights(make_run(toy).network())
    one = weights(make_run(toy, **common).train(tmp_path / "a", cells, None)[0])
    other = weights(make_run(toy, layer_decay=0.5, **common).train(tmp_path / "b", cells, None)[0])
    for name in before:
        factor = 0.5 ** (4 - depth_of(name, 3))
        np.testing.assert_allclose(other[name] - before[name], factor * (one[name] - before[name]), atol=1e-6)


def test_frozen_weights_are_in_no_group(toy):
    network = make_run(toy, frozen_layers=2).network()
    grouped = {id(p) for group in parameter_groups(network, 3, 1.0, 1.0, 0.0) for p in group["params"]}
    assert grouped == {id(p) for p in network.parameters() if p.requires_grad}


# --- class weights --------------------------------------------------------------------------------------------------


def test_balanced_weights_are_those_of_sklearn():
    labels = np.random.default_rng(0).choice(4, size=(200, 2), p=[0.6, 0.2, 0.15, 0.05])
    labels[:, 1] //= 2
    known = np.arange(200) % 7 > 0
    expected = [compute_class_weight("balanced", classes=np.unique(column), y=column) for column in labels[known].T]
    labels[~known] = IGNORED
    np.testing.assert_allclose(balanced_weights(labels, [4, 2]), np.concatenate(expected), rtol=1e-6)


def test_class_weights_are_in_the_loss(toy):
    cells = make_cells(toy.vocabulary)
    batch = collate([cells[i] for i in range(len(cells))])
    network = make_run(toy, class_weights="balanced").network(cells.labels).eval()
    weight = compute_class_weight("balanced", classes=np.arange(3), y=cells.labels[:, 0])
    with torch.no_grad():
        out, truth = network(**batch), torch.from_numpy(cells.labels[:, 0])
        each = torch.nn.functional.cross_entropy(out["logits"], truth, reduction="none").numpy()
    assert float(out["loss"]) == pytest.approx((each * weight[cells.labels[:, 0]]).mean(), abs=1e-6)
    assert "class_weights" not in network.state_dict()


# --- the shape of the model -----------------------------------------------------------------------------------------


def test_num_layers_drops_the_last_blocks(tmp_path, toy, log):
    run = make_run(toy, num_layers=2)
    network, cells = run.network().eval(), make_cells(toy.vocabulary)
    for block, original in zip(network.bert.encoder.layer, toy.bert.encoder.layer[:2], strict=True):
        assert not changed(weights(original), weights(block))
    loaded = gf.models.load(save(network, toy, run.recipe, tmp_path / "model"), device="cpu")
    assert loaded.bert.config.num_hidden_layers == len(loaded.bert.encoder.layer) == 2
    assert changed(weights(loaded.bert), weights(network.bert)) == set()
    logits, _ = run.task.predict(network, cells)
    network.bert, network.head = loaded.bert, load_classifier(loaded, "cells").head
    np.testing.assert_array_equal(run.task.predict(network, cells)[0], logits)
    assert "missing" not in log().lower()
    adata = make_adata()
    gf.tl.embed_cells(adata, loaded, layer=-1)
    gf.tl.embed_cells(adata, toy, layer=2, key_added="whole")
    np.testing.assert_allclose(adata.obsm["X_geneformer"], adata.obsm["whole"], atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "first", "cls"])
def test_the_head_reads_what_pooling_says(pooling):
    model = make_model(special=True)
    run = make_run(model, pooling=pooling)
    network, cells = run.network().eval(), make_cells(model.vocabulary)
    adata = make_adata()
    gf.tl.embed_cells(adata, model, layer=-1, pooling=pooling)
    with torch.no_grad():
        expected = network.head(torch.from_numpy(adata.obsm["X_geneformer"])).numpy()
    np.testing.assert_allclose(run.task.predict(network, cells)[0], expected, atol=1e-6)


def test_from_scratch_with_a_config(toy):
    run = make_run(toy, init="random", config={"hidden_size": 8, "num_hidden_layers": 1, "hidden_dropout_prob": 0.3})
    bert = run.encoder()
    assert (bert.config.hidden_size, len(bert.encoder.layer), bert.config.vocab_size) == (8, 1, 42)
    assert changed(weights(bert), weights(run.encoder())) == set(), "the seed decides"
    other = replace(run, seed=1).encoder()
    assert "embeddings.word_embeddings.weight" in changed(weights(bert), weights(other))
    scratch = make_run(toy, init="random").encoder()
    assert changed(weights(scratch), weights(toy.bert)) == set(weights(toy.bert))


def test_a_training_leaves_the_pretrained_model_alone(tmp_path, toy):
    before = weights(toy.bert)
    make_run(toy, positions=False, learning_rate=0.1).train(tmp_path, make_cells(toy.vocabulary), None)
    assert not changed(before, weights(toy.bert))


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_without_positions_the_order_of_genes_does_not_matter(tmp_path, toy, init):
    run, cells = make_run(toy, positions=False, init=init, learning_rate=0.1), make_cells(toy.vocabulary)
    network, _ = run.train(tmp_path / "run", cells, None)
    rng = np.random.default_rng(0)
    mixed = np.concatenate([rng.permutation(item["tokens"]) for item in cells])
    shuffled = replace(cells, ids=mixed)
    logits, after = (run.task.predict(network, some)[0] for some in (cells, shuffled))
    np.testing.assert_allclose(after, logits, atol=1e-5)
    aware = make_run(toy)
    logits, after = (aware.task.predict(aware.network(), some)[0] for some in (cells, shuffled))
    assert np.abs(after - logits).max() > 1e-3
    loaded = gf.models.load(save(network, toy, run.recipe, tmp_path / "model"), device="cpu")
    assert not loaded.bert.embeddings.position_embeddings.weight.any()


def test_dropout_is_that_of_the_recipe(toy):
    network = make_run(toy, dropout=0.37, head="mlp", pooling="first").network()
    assert {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)} == {0.37}
    assert network.bert.config.hidden_dropout_prob == network.bert.config.attention_probs_dropout_prob == 0.37
    assert make_run(toy, dropout=None).network().head.dropout.p == toy.bert.config.hidden_dropout_prob > 0


@pytest.mark.parametrize("special", [False, True])
def test_max_tokens_cuts_every_cell(tmp_path, special):
    model = make_model(special=special)

    def lengths(**settings):
        beginning = begin_training(model, tmp_path, **settings)
        counted, blocks = beginning.source.counted()
        assert sum(len(tokens) for _, tokens in blocks) == len(counted)
        return beginning.vocabulary.input_size, counted

    size, whole = lengths()
    assert (size, whole.max()) == (16, 16)
    size, cut = lengths(max_tokens=8)
    assert size == 8
    np.testing.assert_array_equal(cut, np.minimum(whole, 8))
    assert lengths(max_tokens=2048)[0] == 16, "a model has as many positions as it has"
    assert lengths(init="random", config={"max_position_embeddings": 5})[0] == 5


def begin_training(model, folder, **settings):
    return begin(
        make_adata(),
        model,
        "default",
        settings,
        out=folder / "model",
        default_out="",
        counts_layer=None,
        use_raw=None,
        gene_ids=None,
        device="auto",
        dtype="auto",
        arguments=None,
        overwrite=False,
        seed=0,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_mixed_precision(tmp_path, toy):
    run = replace(make_run(toy, epochs=5, learning_rate=1e-3), device=torch.device("cuda", 0))
    cells = make_cells(toy.vocabulary, 24)
    losses = {half: replace(run, half=half).train(tmp_path / str(half), cells, cells)[1] for half in (None, "bf16")}
    last = {half: [entry["eval_loss"] for entry in history if "eval_loss" in entry] for half, history in losses.items()}
    assert len(last["bf16"]) == 5
    np.testing.assert_allclose(last["bf16"], last[None], rtol=0.02)


# --- a <cls> token that the model did not have ----------------------------------------------------------------------


def test_added_cls_is_learned_and_kept(tmp_path, toy):
    vocabulary = with_cls(toy.vocabulary)
    assert vocabulary.special == {**toy.vocabulary.special, "<cls>": 42}
    assert with_cls(vocabulary) is vocabulary
    run = make_run(toy, add_cls=True, pooling="cls", learning_rate=0.1)
    cells, words = make_cells(vocabulary), run.encoder().embeddings.word_embeddings.weight.detach()
    assert {int(item["tokens"][0]) for item in cells} == {42}
    assert words.shape[0] == 43
    np.testing.assert_allclose(words[42], toy.bert.embeddings.word_embeddings.weight.mean(dim=0), rtol=1e-5)
    network, _ = run.train(tmp_path / "run", cells, None)
    learned = network.bert.embeddings.word_embeddings.weight.detach()
    assert (learned[42] - words[42]).abs().min() > 1e-3
    folder = save(network, toy, run.recipe, tmp_path / "model")
    assert gf.models.load(folder).vocabulary.cls_token == 42

    adata = make_adata()
    gf.tl.tokenize(adata, folder)
    assert set(adata.obsm["geneformer_tokens"][:, 0]) == {42}
    gf.tl.embed_cells(adata, folder, pooling="cls", layer=-1, device="cpu")
    with torch.no_grad():
        logits = network.head(torch.from_numpy(adata.obsm["X_geneformer"])).numpy()
    np.testing.assert_allclose(run.task.predict(network, cells)[0], logits, atol=1e-6)
    gf.tl.perturb(adata, ["G1"], model=folder)
    assert adata.layers["geneformer_delete"].nnz > 0


@pytest.mark.parametrize("held", [{"lora": 2}, {"freeze_embeddings": True}])
def test_added_cls_that_nothing_would_train(toy, held):
    with pytest.raises(DataError, match=f"adds a token that is to be learned, and {next(iter(held))}="):
        make_run(toy, add_cls=True, **held).encoder()
    make_run(make_model(special=True), add_cls=True, **held).encoder()  # has one


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen_layers": 4}, "frozen_layers=4 is more than the 3 blocks"),
        ({"frozen_layers": 3, "num_layers": 2}, "frozen_layers=3 is more than the 2 blocks"),
        ({"num_layers": 4}, "num_layers=4 must be from 1 to 3"),
        ({"init": "random", "config": {"hiden_size": 8}}, "'hiden_size': ...} is no entry that can be set"),
        ({"init": "random", "config": {"vocab_size": 8}}, "'vocab_size': ...} is no entry that can be set"),
        ({"init": "random", "config": {"hidden_size": 6}}, "no BERT model can be built of it"),
        ({"init": "random", "config": {"num_attention_heads": 0}}, "no BERT model can be built of it"),
        ({"init": "random", "config": {"hidden_act": "rleu"}}, "no BERT model can be built of it"),
    ],
)
def test_what_the_model_does_not_have(toy, settings, message):
    with pytest.raises(DataError, match=message):
        make_run(toy, **settings).encoder()


def test_packed_cells_do_not_see_each_other(toy):
    """The gradient of one cell's loss does not reach the tokens of another."""
    network, cells = make_run(toy).network(), make_cells(toy.vocabulary)
    batch = collate([cells[0], cells[1]])
    embedded = []
    network.bert.embeddings.register_forward_hook(lambda *call: embedded.append(call[-1]) or call[-1].retain_grad())
    network(**batch)["logits"][0].sum().backward()
    reached = embedded[0].grad[0].abs().sum(dim=1) > 0
    assert reached.tolist() == [True] * int(cells.lengths[0]) + [False] * int(cells.lengths[1])
    assert pack(cells.tokens.take(np.array([0, 1]))).lengths == batch["lengths"]
