"""Labels of genes: the data set, predictions against padded stock BERT, folds of genes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import make_bert, make_vocabulary

from scgeneformer._engine.class_head import ClassHead
from scgeneformer._engine.classification import class_sums, classify_tokens
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._training.dataset import IGNORED, TokenDataset, collate
from scgeneformer._training.held_out import cross_validate, train_once
from scgeneformer._training.network import Network
from scgeneformer._training.recipe import Recipe
from scgeneformer._training.run import Run
from scgeneformer._training.task import GeneTask

N_TOKENS = 42


def table(**classes: int) -> np.ndarray:
    """Labels by token: ``t5=1`` gives token 5 class 1."""
    labels = np.full(N_TOKENS, IGNORED, dtype=np.int64)
    for name, label in classes.items():
        labels[int(name[1:])] = label
    return labels


def dataset(*cells: list[int], labels: np.ndarray) -> TokenDataset:
    lengths = [len(cell) for cell in cells]
    ids = np.concatenate([np.array(cell, dtype=np.uint16) for cell in cells])
    return TokenDataset(ids, np.concatenate([[0], np.cumsum(lengths)]), labels)


@pytest.fixture
def cells():
    return dataset([5, 9, 7], [8, 9], [7, 6, 8, 5], labels=table(t5=1, t7=0, t8=1))


def random_cells(n: int, labels: np.ndarray, seed: int = 0) -> TokenDataset:
    rng = np.random.default_rng(seed)
    return dataset(*(rng.permutation(np.arange(2, N_TOKENS))[: rng.integers(4, 14)] for _ in range(n)), labels=labels)


# --- the data set ---------------------------------------------------------------------------------------------------


def test_predictions_are_about_genes_with_a_label(cells):
    assert cells.units.tolist() == [5, 7, 8, 7, 8, 5]
    assert cells.truth.tolist() == [[1], [0], [1], [0], [1], [1]]
    assert cells.label_offsets.tolist() == [0, 2, 3, 6]


def test_part_has_only_cells_and_labels_of_its_genes(cells):
    chosen = np.zeros(N_TOKENS, dtype=bool)
    chosen[[5, 6]] = True  # 6 has no label
    some = cells.part(chosen)
    assert [item["tokens"].tolist() for item in some] == [[5, 9, 7], [7, 6, 8, 5]]
    assert some.units.tolist() == [5, 5]
    assert cells.part(~chosen).units.tolist() == [7, 8, 7, 8]
    assert len(cells.part(~chosen)) == 3
    assert cells.units.tolist() == [5, 7, 8, 7, 8, 5]  # as before


def test_collate_names_the_places_of_the_labels(cells):
    batch = collate([cells[0], cells[2]])
    assert batch["ids"].tolist() == [[5, 9, 7, 7, 6, 8, 5]]
    assert batch["targets"].tolist() == [0, 2, 3, 5, 6]
    assert batch["labels"].tolist() == [[1], [0], [0], [1], [1]]


# --- predictions ----------------------------------------------------------------------------------------------------


def padded_logits(bert, head, cells: TokenDataset) -> np.ndarray:
    """Naive twin: one cell at a time through the stock model, every token classified, then those with a label."""
    found = []
    for item in cells:
        with torch.no_grad():
            states = bert(torch.from_numpy(item["tokens"].astype(np.int64))[None]).last_hidden_state[0]
            found.append(head(states).numpy()[item["token_labels"] != IGNORED])
    return np.concatenate(found)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_predict_equals_stock_model(kind):
    vocabulary = make_vocabulary()
    head = ClassHead(16, 3, kind).initialise(0.5, 1)
    cells = random_cells(9, table(t5=1, t7=0, t8=2, t30=1))
    bert = use_own_kernels(make_bert(vocabulary))
    task = GeneTask(3)
    logits, labels = task.predict(Network(bert, head, task.read, task.sizes), cells)
    assert labels.tolist() == cells.truth.tolist()
    np.testing.assert_allclose(logits, padded_logits(make_bert(vocabulary), head, cells), atol=2e-5)


def test_logits_are_in_place_whatever_the_batches_and_empty_cells():
    bert, head = use_own_kernels(make_bert(make_vocabulary())), ClassHead(16, 2).initialise(0.5, 1)
    cells = dataset([5, 9, 7], [], [9, 10], [7, 6, 8, 5], labels=table(t5=1, t7=0, t8=1))
    wanted = cells.labels != IGNORED
    whole = classify_tokens(cells.blocks(), [bert], head, wanted, cells.label_offsets, 10_000)
    apart = classify_tokens(cells.blocks(size=2), [bert], head, wanted, cells.label_offsets, 1)
    assert whole.shape == (5, 2)
    np.testing.assert_allclose(whole, apart, atol=1e-5)
    np.testing.assert_allclose(
        whole, padded_logits(make_bert(make_vocabulary()), head, cells.take(np.array([0, 3]))), atol=2e-5
    )


def test_class_sums_are_sums_of_probabilities():
    bert, head = use_own_kernels(make_bert(make_vocabulary())), ClassHead(16, 3).initialise(0.5, 1)
    cells = random_cells(6, np.zeros(N_TOKENS, dtype=np.int64))
    group = np.array([0, 1, 1, -1, 0, 1])
    slots = np.full(N_TOKENS, -1, dtype=np.int64)
    slots[[5, 7]] = [1, 0]
    found = class_sums(cells.blocks(), [bert], head, 20, group, 2, slots, 2)
    (sums,) = found.sums.values()
    expected, counts, stock = np.zeros((2, 2, 3)), np.zeros((2, 2), dtype=int), make_bert(make_vocabulary())
    for g, item in zip(group, cells, strict=True):
        logits = torch.from_numpy(padded_logits(stock, head, dataset(item["tokens"], labels=cells.labels)))
        for token, p in zip(item["tokens"], torch.softmax(logits, 1).numpy(), strict=True):
            if g >= 0 and slots[token] >= 0:
                expected[g, slots[token]] += p
                counts[g, slots[token]] += 1
    assert found.n_cells.tolist() == counts.tolist()
    np.testing.assert_allclose(sums, expected, atol=1e-5)


# --- folds of genes -------------------------------------------------------------------------------------------------


def make_run(**settings) -> Run:
    bert = use_own_kernels(make_bert(make_vocabulary(), n_blocks=1))
    recipe = Recipe(learning_rate=1e-2, batch_size=4, warmup=0, **settings)
    return Run(bert, recipe, GeneTask(2), N_TOKENS, 0, torch.device("cpu"), None, {})


def test_held_out_genes_do_not_train(tmp_path):
    """What is told of the genes of a fold does not change when all their labels are wrong."""
    labels = table(**{f"t{i}": i % 2 for i in range(10, 22)})
    folds = np.where(labels == IGNORED, -1, np.arange(N_TOKENS) // 2 % 3)
    wrong = np.where(folds == 1, 1 - labels, labels)
    right = cross_validate(make_run(), random_cells(20, labels), folds, tmp_path / "a").logits
    other = cross_validate(make_run(), random_cells(20, wrong), folds, tmp_path / "b").logits
    held_out = folds[random_cells(20, labels).units] == 1
    np.testing.assert_array_equal(right[held_out], other[held_out])
    assert not np.allclose(right[~held_out], other[~held_out])
    assert np.isfinite(right).all()


def test_train_once_tells_only_of_held_out_genes(tmp_path):
    labels = table(**{f"t{i}": i % 2 for i in range(10, 22)})
    parts = np.where(np.arange(N_TOKENS) == 12, 2, np.where(np.arange(N_TOKENS) == 13, 1, 0))
    cells = random_cells(20, labels)
    outcome = train_once(make_run(patience=1), cells, parts, tmp_path)
    told = np.isfinite(outcome.logits).all(axis=1)
    assert told.tolist() == np.isin(cells.units, (12, 13)).tolist()
    (last,) = [entry for entry in outcome.history if "eval_loss" in entry]
    p = torch.from_numpy(outcome.logits[cells.units == 13])
    assert last["eval_loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(p, torch.ones(len(p)).long())), abs=1e-5
    )


def test_balanced_weights_count_genes_in_cells():
    cells = dataset([5, 7, 8], [7, 9], [7, 2], labels=table(t5=1, t7=0, t8=1))
    network = make_run(class_weights="balanced").network(cells.truth)
    assert network.class_weights.tolist() == pytest.approx([5 / (2 * 3), 5 / (2 * 2)])
