"""Encoder and head as one module that `transformers.Trainer` trains on packed batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from scgeneformer._engine.encoder import hidden_states
from scgeneformer._engine.packing import Packed
from scgeneformer._training.dataset import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import BertModel


class Network(nn.Module):
    """Hidden states of the last block, the rows that the head reads, its logits, and their loss.

    Parameters
    ----------
    bert
        The encoder, with packed attention.
    head
        Gives logits (m, n_classes) of rows (m, d).
    read
        Function of the states (total, d), the batch and its targets that gives the rows the head reads, (m, d).
    sizes
        Classes of each task.
    class_weights
        Weight of each class of all tasks, (n_classes,) float32; None weighs all alike.
    """

    head: Any
    accepts_loss_kwargs = True  # tells Trainer to hand on `num_items_in_batch`

    def __init__(
        self,
        bert: BertModel,
        head: nn.Module,
        read: Callable[[torch.Tensor, Packed, torch.Tensor | None], torch.Tensor],
        sizes: list[int],
        class_weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.bert, self.head, self.read, self.sizes = bert, head, read, sizes
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        offsets: torch.Tensor,
        lengths: list[int],
        targets: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> dict[str, Any]:
        """Logits of a packed batch and, with labels, the loss.

        Parameters
        ----------
        ids, positions, offsets, lengths
            The batch, as in :class:`Packed`.
        targets
            Places of the tokens that the head reads, (m,) int64; None for cells.
        labels
            (m, n_tasks) int64, -100 where there is none.
        num_items_in_batch
            Labels in all batches whose gradients are added up before a step; None takes those of this batch.
        """
        packed = Packed(ids, positions, offsets, lengths)
        last = self.bert.config.num_hidden_layers
        states = hidden_states(self.bert, packed, [last])[last]
        logits = self.head(self.read(states, packed, targets)).float()
        if labels is None:
            return {"logits": logits}
        return {"loss": loss_of(logits, labels, self.sizes, self.class_weights, num_items_in_batch), "logits": logits}

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Keep fewer activations and compute them again; called by Trainer."""
        self.bert.gradient_checkpointing_enable(**kwargs)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """The same, as newer versions of transformers call it."""
        self.bert.activation_checkpointing_enable(**kwargs)


def loss_of(
    logits: torch.Tensor,
    labels: torch.Tensor,
    sizes: list[int],
    class_weights: torch.Tensor | None = None,
    n_labels: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy over all labels of all tasks: the weighted sum over the labels, divided by their number.

    Parameters
    ----------
    logits
        (m, n_classes), the tasks side by side.
    labels
        (m, n_tasks) int64, -100 where there is none.
    sizes
        Classes of each task.
    class_weights
        Weight of each class, (n_classes,).
    n_labels
        Number to divide by; None counts the labels.
    """
    weights = [None] * len(sizes) if class_weights is None else class_weights.split(sizes)
    parts = zip(logits.split(sizes, dim=1), labels.unbind(dim=1), weights, strict=True)
    losses = [cross_entropy(x, y, w, ignore_index=IGNORED, reduction="sum") for x, y, w in parts]
    return torch.stack(losses).sum() / ((labels != IGNORED).sum().clamp(min=1) if n_labels is None else n_labels)


def read_targets(states: torch.Tensor, packed: Packed, targets: torch.Tensor | None) -> torch.Tensor:
    """The states of the target tokens, (m, d)."""
    return states[targets]
