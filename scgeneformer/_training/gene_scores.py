"""How well a classifier tells the class of genes that it was not trained on: in every cell, and over all cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._engine.classification import softmax
from scgeneformer._training.roc import fold_curve, mean_curve
from scgeneformer._training.scores import Scores, score

if TYPE_CHECKING:
    from scgeneformer._training.dataset import TokenDataset


@dataclass(frozen=True, eq=False)
class GeneScores:
    """What was found of held-out genes.

    Parameters
    ----------
    in_cells
        Scores of every gene in every cell, each counted once; what the reference reports.
    of_genes
        Scores of the mean probabilities, each gene counted once.
    probability
        Mean over the cells of the class probabilities of each gene, (n_genes, n_classes) float32.
    n_cells
        Cells that contain each gene, (n_genes,) int64.
    roc
        Curves of the genes in cells: see :func:`curves`.
    """

    in_cells: Scores
    of_genes: Scores
    probability: np.ndarray
    n_cells: np.ndarray
    roc: dict[str, Any]

    @property
    def summaries(self) -> dict[str, dict[str, float]]:
        """Metrics by what is counted, with the area under the mean curve of the folds."""
        folds = {"auc_over_folds": float(self.roc["mean_auc"].mean()), "auc_sd": float(self.roc["auc_sd"].mean())}
        return {"genes in cells": {**self.in_cells.summary, **folds}, "genes": self.of_genes.summary}


def judge_genes(
    cells: TokenDataset,
    logits: np.ndarray,
    tokens: np.ndarray,
    codes: np.ndarray,
    folds: np.ndarray,
    classes: list[str],
) -> GeneScores:
    """Judge what was told of each gene by the model of the fold that did not know its class.

    Parameters
    ----------
    cells
        The cells, with all labels.
    logits
        Of every gene with a label in every cell, (m, n_classes), in the order of ``cells.units``.
    tokens, codes, folds
        Token, class and fold of each gene, (n_genes,); every gene is in some cell.
    classes
        Names of the classes.
    """
    slots = np.full(len(cells.labels), -1, dtype=np.int64)
    slots[tokens] = np.arange(len(tokens))
    slot = slots[cells.units]
    (probability,) = softmax(logits, [len(classes)])
    sums, n_cells = np.zeros((len(tokens), len(classes))), np.bincount(slot, minlength=len(tokens))
    np.add.at(sums, slot, probability)
    mean = (sums / n_cells[:, None]).astype(np.float32)
    truth = codes[slot]
    return GeneScores(
        score(truth, probability, classes),
        score(codes, mean, classes),
        mean,
        n_cells,
        curves(truth, probability, folds[slot]),
    )
