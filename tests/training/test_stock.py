"""Training on packed batches is that of the stock padded models of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fine_tuned import SGD, changed, make_cells, make_run, weights
from toys import make_model
from transformers import BertConfig, BertForSequenceClassification

from scgeneformer._engine.class_head import NAMES
from scgeneformer._training.dataset import IGNORED, collate
from scgeneformer._training.network import loss_of

SOME = {"head.classifier.bias", "bert.encoder.layer.0.output.dense.bias", "bert.embeddings.word_embeddings.weight"}


def make_stock(network) -> BertForSequenceClassification:
    """The stock classifier with the same weights, without dropout."""
    entries = network.bert.config.to_dict()
    for name in ("id2label", "label2id", "num_labels"):
        entries.pop(name, None)
    config = BertConfig(**entries, num_labels=sum(network.sizes))
    config._attn_implementation = "eager"
    stock = BertForSequenceClassification(config)
    tensors = {f"bert.{name}": tensor for name, tensor in network.bert.state_dict().items()} | network.head.tensors()
    assert stock.load_state_dict(tensors) == torch.nn.modules.module._IncompatibleKeys([], [])
    return stock


def pad(cells) -> dict[str, torch.Tensor]:
    """The cells as the stock models take them."""
    ids = np.zeros((len(cells), cells.lengths.max()), dtype=np.int64)
    mask = np.arange(ids.shape[1]) < cells.lengths[:, None]
    ids[mask] = cells.ids
    labels = torch.from_numpy(cells.labels[:, 0])
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask).long(), "labels": labels}


def by_stock_name(network) -> dict[str, torch.nn.Parameter]:
    """Parameters of our network by their names in the stock model."""
    ours = {f"bert.{name}": parameter for name, parameter in network.bert.named_parameters()}
    return ours | {name: network.head.get_parameter(own) for own, name in NAMES.items()}


@pytest.mark.parametrize("special", [False, True])
def test_loss_and_gradients_are_those_of_the_stock_classifier(special):
    model = make_model(special=special)
    network = make_run(model, pooling="first", head="mlp").network().train()
    stock, cells = make_stock(network).train(), make_cells(model.vocabulary)
    ours, theirs = network(**collate([cells[i] for i in range(len(cells))])), stock(**pad(cells))
    np.testing.assert_allclose(ours["logits"].detach(), theirs.logits.detach(), atol=1e-6)
    assert float(ours["loss"].detach()) == pytest.approx(float(theirs.loss.detach()), abs=1e-6)
    ours["loss"].backward()
    theirs.loss.backward()
    parameters = by_stock_name(network)
    assert parameters.keys() == dict(stock.named_parameters()).keys()
    for name, parameter in stock.named_parameters():
        np.testing.assert_allclose(parameters[name].grad, parameter.grad, atol=1e-6, err_msg=name)


def test_a_step_is_that_of_the_padded_model(tmp_path, toy):
    run = make_run(toy, pooling="first", head="mlp", learning_rate=0.5, weight_decay=0.01, arguments=SGD)
    cells, before = make_cells(toy.vocabulary), run.network()
    stock = make_stock(before).train()
    decaying = [p for p in stock.parameters() if p.ndim > 1]
    others = [p for p in stock.parameters() if p.ndim == 1]
    groups = [{"params": decaying, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    stock(**pad(cells)).loss.backward()
    torch.nn.utils.clip_grad_norm_(stock.parameters(), 1.0)
    optimizer.step()
    network, _ = run.train(tmp_path, cells, None)
    assert changed(weights(before), weights(network)) >= SOME
    for name, parameter in by_stock_name(network).items():
        np.testing.assert_allclose(parameter.detach(), stock.get_parameter(name).detach(), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("n_cells", [12, 10], ids=["whole", "the last batch smaller"])
def test_accumulated_batches_are_one_big_batch(tmp_path, toy, n_cells):
    """Also where labels are missing, so that batches have different numbers of them."""
    cells = make_cells(toy.vocabulary, n_cells, (3, 2), missing=0.2)
    cells.labels[:4] = IGNORED
    common = {"sizes": (3, 2), "learning_rate": 0.5, "arguments": SGD}
    big, _ = make_run(toy, batch_size=12, **common).train(tmp_path / "a", cells, None)
    small, _ = make_run(toy, batch_size=4, accumulation=3, **common).train(tmp_path / "b", cells, None)
    start, big, small = (weights(network) for network in (make_run(toy, sizes=(3, 2)).network(), big, small))
    for name in big:
        np.testing.assert_allclose(small[name], big[name], atol=1e-6, err_msg=name)
    assert changed(start, big) >= SOME


def test_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0, 1.0, 3.0], [2.0, 0.0, 0.0, 0.0]])
    labels = torch.tensor([[0, IGNORED], [1, 1]])
    losses = [np.log(2), 2 + np.log(1 + np.exp(-2)), np.log(2)]
    assert float(loss_of(logits, labels, [2, 2])) == pytest.approx(sum(losses) / 3)
    weighted = loss_of(logits, labels, [2, 2], torch.tensor([1.0, 10.0, 1.0, 5.0]))
    assert float(weighted) == pytest.approx((losses[0] + 10 * losses[1] + 5 * losses[2]) / 3)
    assert float(loss_of(logits, labels, [2, 2], n_labels=6)) == pytest.approx(sum(losses) / 6)
