"""The head of a classifier: from the vector of a cell, or of a gene in a cell, to one logit per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scgeneformer._engine.head import Head

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {
    "dense.weight": "bert.pooler.dense.weight",
    "dense.bias": "bert.pooler.dense.bias",
    "classifier.weight": "classifier.weight",
    "classifier.bias": "classifier.bias",
}
"""Own name of each tensor -> its name in a weight file, which is that of the stock BERT classifiers."""


class ClassHead(Head):
    """Dropout and a linear map, of several tasks at once; with `kind` "mlp" a dense layer and tanh before them.

    On the first token, "mlp" is the head of `BertForSequenceClassification`; on the tokens of genes, "linear" is that
    of `BertForTokenClassification` (both of transformers).

    Parameters
    ----------
    width
        Width of the hidden states.
    n_classes
        Classes of all tasks together.
    kind
        "linear" or "mlp".
    dropout
        Share of the inputs of the linear map that is dropped in training.
    """

    def __init__(self, width: int, n_classes: int, kind: str = "linear", dropout: float = 0.0) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width) if kind == "mlp" else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, n_classes)

    @property
    def kind(self) -> str:
        """Which kind of head this is."""
        return "linear" if self.dense is None else "mlp"

    @property
    def n_classes(self) -> int:
        """Classes of all tasks together."""
        return self.classifier.out_features

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (m, n_classes) of rows (m, d)."""
        rows = rows.to(self.classifier.weight.dtype)
        if self.dense is not None:
            rows = torch.tanh(self.dense(rows))
        return self.classifier(self.dropout(rows))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights by their names in a weight file."""
        return {NAMES[name]: tensor for name, tensor in self.state_dict().items()}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> ClassHead:
        """Build the head from tensors by their names in a weight file; its kind is told by which there are."""
        n_classes, width = tensors[NAMES["classifier.weight"]].shape
        head = cls(width, n_classes, "mlp" if NAMES["dense.weight"] in tensors else "linear")
        head.load_state_dict({own: tensors[NAMES[own]] for own in head.state_dict()})
        return head.eval().requires_grad_(False)
