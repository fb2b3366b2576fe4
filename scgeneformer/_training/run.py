"""From a recipe and cells with labels to a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from scgeneformer._engine.class_head import ClassHead
from scgeneformer._errors import DataError
from scgeneformer._training.encoder import copy_encoder, random_encoder, without_positions
from scgeneformer._training.fit import fit
from scgeneformer._training.network import Network
from scgeneformer._training.optimizer import freeze

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import BertModel

    from scgeneformer._engine.packing import Packed
    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.recipe import Recipe


class Task(Protocol):
    """What a training is about, see `task.CellTask`."""

    @property
    def sizes(self) -> list[int]:
        """Classes of each thing that is told."""

    def read(self, states: torch.Tensor, packed: Packed, targets: torch.Tensor | None) -> torch.Tensor:
        """Rows that the head reads, (m, d)."""

    def predict(self, network: Network, cells: TokenDataset) -> tuple[np.ndarray, np.ndarray]:
        """Logits (m, n_classes) and labels (m, n_tasks) of a data set."""


@dataclass(frozen=True, eq=False)
class Run:
    """A training that can be run on several choices of cells.

    Parameters
    ----------
    bert
        The pretrained encoder; it is copied.
    recipe
        Settings.
    task
        What is learned.
    n_tokens
        Rows of the word embeddings.
    seed
        Of weights, dropout, and the order of the cells.
    device
        Where to train.
    half
        "bf16" or "fp16" for mixed precision, or None.
    arguments
        Arguments of `transformers.TrainingArguments` that take the place of ours.
    """

    bert: BertModel
    recipe: Recipe
    task: Task
    n_tokens: int
    seed: int
    device: torch.device
    half: str | None
    arguments: dict[str, Any]

    def encoder(self) -> BertModel:
        """The encoder that the training begins with."""
        recipe = self.recipe
        if recipe.init == "random":
            config = self.bert.config
            bert = random_encoder(
                config, recipe.config, n_tokens=self.n_tokens, seed=self.seed, num_layers=recipe.num_layers
            )
        else:
            bert = copy_encoder(self.bert, num_layers=recipe.num_layers, n_tokens=self.n_tokens)
        if not recipe.positions:
            without_positions(bert)
        if recipe.frozen_layers > (n := bert.config.num_hidden_layers):
            raise DataError(f"frozen_layers={recipe.frozen_layers} is more than the {n} blocks of the model.")
        freeze(bert, recipe.frozen_layers, embeddings=recipe.freeze_embeddings, positions=not recipe.positions)
        return bert

    def network(self, labels: np.ndarray | None = None) -> Network:
        """The network before training; class weights, where asked for, are those of `labels` (m, n_tasks)."""
        bert, recipe = self.encoder(), self.recipe
        dropout = bert.config.hidden_dropout_prob if recipe.dropout is None else recipe.dropout
        head = ClassHead(bert.config.hidden_size, sum(self.task.sizes), recipe.head, dropout)
        head.initialise(bert.config.initializer_range, self.seed)
        weights = None
        if recipe.class_weights is not None and labels is not None:
            weights = balanced_weights(labels, self.task.sizes)
        network = Network(bert, head, self.task.read, self.task.sizes, weights)
        if recipe.dropout is not None:
            for module in network.modules():
                if isinstance(module, nn.Dropout):
                    module.p = recipe.dropout
        return network

    def train(
        self, folder: Path, train: TokenDataset, validation: TokenDataset | None
    ) -> tuple[Network, list[dict[str, Any]]]:
        """Train on some cells; checkpoints go to `folder`. Gives the network, and what was logged."""
        labels = train.labels if train.labels.ndim == 2 else train.labels[:, None]
        network = self.network(labels)
        history = fit(
            network,
            self.recipe,
            folder,
            train,
            validation,
            self.task.predict,
            seed=self.seed,
            device=self.device,
            half=self.half,
            arguments=self.arguments,
        )
        return network, history


def balanced_weights(labels: np.ndarray, sizes: list[int]) -> torch.Tensor:
    """Weight of each class, (n_classes,) float32: n / (n_classes * n_of_class), as "balanced" of scikit-learn.

    Parameters
    ----------
    labels
        (m, n_tasks) int64, negative where there is none.
    sizes
        Classes of each task.
    """
    parts = []
    for column, size in zip(labels.T, sizes, strict=True):
        counts = np.bincount(column[column >= 0], minlength=size)
        parts.append(counts.sum() / (size * np.maximum(counts, 1)))
    return torch.from_numpy(np.concatenate(parts)).float()
