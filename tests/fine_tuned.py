"""Tiny trainings, built by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from toys import make_adata

from scgeneformer._adata.tokens import open_tokens
from scgeneformer._training.dataset import IGNORED, TokenDataset, gather
from scgeneformer._training.encoder import with_cls
from scgeneformer._training.recipe import Recipe
from scgeneformer._training.run import Run
from scgeneformer._training.task import CellTask
from scgeneformer.models._classifier import CELLS, Task, describe
from scgeneformer.models._save_trained import save_trained

SGD = {"optim": "sgd"}  # weights change by the gradient itself, which a test can compare


def make_cells(vocabulary, n_cells: int = 12, sizes: tuple[int, ...] = (3,), missing: float = 0.0) -> TokenDataset:
    """Cells of :func:`make_adata` with random labels, some of which are missing."""
    _, blocks = open_tokens(make_adata(n_cells), vocabulary).counted()
    found = gather(blocks, np.ones(n_cells, dtype=bool), vocabulary.n_tokens)
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, size, n_cells) for size in sizes], axis=1)
    labels[rng.random(labels.shape) < missing] = IGNORED
    return TokenDataset(found.ids, found.offsets, labels, found.positions)


def vocabulary_of(model, recipe: Recipe):
    """Vocabulary of the trained model."""
    return with_cls(model.vocabulary) if recipe.add_cls else model.vocabulary


def make_run(model, *, sizes: tuple[int, ...] = (3,), seed: int = 0, arguments: dict | None = None, **settings) -> Run:
    """A training without dropout, on the CPU in float32."""
    recipe = Recipe(**{"dropout": 0.0, "schedule": "constant", **settings})
    vocabulary = vocabulary_of(model, recipe)
    task = CellTask(vocabulary, recipe.pooling, list(sizes))
    device = torch.device("cpu")
    return Run(model.bert, recipe, task, vocabulary.n_tokens, seed, device, None, arguments or {})


def save(network, model, recipe: Recipe, folder: Path) -> Path:
    """Directory of a trained network with classes "0", "1", ..."""
    classes = [str(i) for i in range(network.sizes[0])]
    entries = describe(CELLS, recipe.pooling, recipe.head, [Task("cell_type", classes)])
    tensors, vocabulary = network.head.tensors(), vocabulary_of(model, recipe)
    save_trained(folder, network.bert, tensors, vocabulary, config=entries, metrics={}, card="")
    return folder


def weights(module) -> dict[str, np.ndarray]:
    """Copies of all weights by name."""
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    """Names of the weights that are not the same."""
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name])}
