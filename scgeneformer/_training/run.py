"""From a recipe and cells with labels to a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgeneformer._errors import DataError
from scgeneformer._training.encoder import copy_encoder, random_encoder, without_positions
from scgeneformer._training.fit import fit, quiet, same_random_state
from scgeneformer._training.lora import add_adapters, merge_adapters
from scgeneformer._training.network import Network
from scgeneformer._training.optimizer import freeze
from scgeneformer._training.trainer import training_arguments
from scgeneformer._training.width import begin_as_wide, times_wider

if TYPE_CHECKING:
    from transformers import BertModel, TrainingArguments

    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.task import Task


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

    @same_random_state()
    def encoder(self) -> BertModel:
        """The encoder that the training begins with."""
        recipe = self.recipe
        shape: dict[str, Any] = {"num_layers": recipe.num_layers, "n_tokens": self.n_tokens, "dropout": recipe.dropout}
        if recipe.init == "random":
            bert = random_encoder(self.bert.config, recipe.config, seed=self.seed, **shape)
        else:
            bert = copy_encoder(self.bert, **shape)
            self._check_added_tokens()
        if not recipe.positions:
            without_positions(bert)
        if recipe.frozen_layers > (n := bert.config.num_hidden_layers):
            raise DataError(f"frozen_layers={recipe.frozen_layers} is more than the {n} blocks of the model.")
        freeze(bert, recipe.frozen_layers, embeddings=recipe.freeze_embeddings, positions=not recipe.positions)
        return self._adapted(bert) if recipe.lora else bert

    def _check_added_tokens(self) -> None:
        """Refuse a token whose row nothing would train."""
        held = {"lora": self.recipe.lora, "freeze_embeddings": self.recipe.freeze_embeddings}
        if self.n_tokens > self.bert.config.vocab_size and (name := next((n for n, v in held.items() if v), None)):
            raise DataError(
                f"add_cls=True or previous_layer= adds a token that is to be learned, and {name}={held[name]} leaves "
                "all embeddings as they are. Leave one of the two out."
            )

    def _adapted(self, bert: BertModel) -> BertModel:
        """The encoder with adapters in the blocks that are not frozen."""
        recipe = self.recipe
        if recipe.frozen_layers == bert.config.num_hidden_layers:
            raise DataError(
                f"lora={recipe.lora} has no block to adapt: frozen_layers={recipe.frozen_layers} freezes all. Freeze "
                "fewer, or leave lora= out."
            )
        alpha = 2 * recipe.lora if recipe.lora_alpha is None else recipe.lora_alpha
        dropout = bert.config.hidden_dropout_prob
        return add_adapters(
            bert, recipe.lora, alpha=alpha, dropout=dropout, first_block=recipe.frozen_layers, seed=self.seed
        )

    @same_random_state()
    def network(self, labels: np.ndarray | None = None) -> Network:
        """The network before training; class weights, where asked for, are those of `labels` (m, n_tasks)."""
        bert, recipe = self.encoder(), self.recipe
        head = self.task.head(bert, recipe, self.seed)
        if recipe.init == "random":
            begin_as_wide(bert, head, times_wider(bert.config, recipe.base_width))
        weights = None
        if recipe.class_weights is not None and labels is not None:
            weights = balanced_weights(labels, self.task.sizes)
        return Network(bert, head, self.task.read, self.task.sizes, weights)

    def check(self, validates: bool) -> None:
        """Refuse settings and arguments that cannot be used; `validates`: whether there are validation cells.

        Raises
        ------
        DataError
            If early stopping has nothing to watch, an argument is a parameter of the training itself, or transformers
            refuses it.
        """
        if self.recipe.patience is not None and not validates:
            raise DataError(
                "patience stops by the validation loss, and there are no validation cells. Give them a share: "
                "fractions=."
            )
        self.training_arguments(Path(), validates)

    def training_arguments(self, folder: Path, validates: bool, *, saves: bool = True) -> TrainingArguments:
        """Arguments of transformers for one training; its device is the current one from here on."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        with quiet():
            return training_arguments(
                self.recipe,
                folder,
                seed=self.seed,
                cpu=self.device.type == "cpu",
                half=self.half,
                validates=validates,
                saves=saves,
                more=self.arguments,
            )

    def train(
        self, folder: Path, train: TokenDataset, validation: TokenDataset | None
    ) -> tuple[Network, list[dict[str, Any]]]:
        """Train on some cells; checkpoints go to `folder`. Gives the network, and what was logged."""
        network, arguments = self.network(train.truth), self.training_arguments(folder, validation is not None)
        history = fit(network, self.recipe, folder, arguments, train, validation, self.task.measure)
        merge_adapters(network.bert)
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
