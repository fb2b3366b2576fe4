"""How well a classifier tells the class of genes that it was not trained on: in every cell, and over all cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._engine.classification import softmax
from scgeneformer._training.roc import FPR, fold_curve, mean_curve
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
        """Metrics by what is counted; of genes in cells also the weighted mean and spread of the AUC over folds."""
        over_folds = {"auc_over_folds": float(self.roc["mean_auc"].mean()), "auc_sd": float(self.roc["auc_sd"].mean())}
        return {"genes": self.of_genes.summary, "genes in cells": {**self.in_cells.summary, **over_folds}}

    def to_dict(self) -> dict[str, Any]:
        """All scores, for JSON."""
        return {"genes": self.of_genes.to_dict(), "genes in cells": self.in_cells.to_dict(), "roc": self.roc}


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
        curves(truth, probability, folds[slot], classes),
    )


def curves(truth: np.ndarray, probability: np.ndarray, folds: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """ROC curves of every fold and their mean: of the first of two classes, or of each of several against the rest.

    Parameters
    ----------
    truth
        Class of each row, (m,) int.
    probability
        (m, n_classes).
    folds
        Fold of each row, (m,) int.
    classes
        Names of the classes.

    Returns
    -------
    `classes`, those that have a curve; `fpr` (100,), `tpr` (n_curves, n_folds, 100), `auc` and `weights` (n_curves,
    n_folds), `mean_tpr` (n_curves, 100), `mean_auc` and `auc_sd` (n_curves,).
    """
    positive = range(1 if len(classes) == 2 else len(classes))
    found = [
        [fold_curve(truth[folds == fold] == k, probability[folds == fold, k]) for fold in np.unique(folds)]
        for k in positive
    ]
    tpr, auc, weights = (np.array([[fold[i] for fold in each] for each in found]) for i in range(3))
    means = [mean_curve(*each) for each in zip(tpr, auc, weights, strict=True)]
    mean_tpr, mean_auc, auc_sd = (np.array([mean[i] for mean in means]) for i in range(3))
    return {
        "classes": np.array([classes[k] for k in positive]),
        "fpr": FPR,
        "tpr": tpr,
        "auc": auc,
        "weights": weights,
        "mean_tpr": mean_tpr,
        "mean_auc": mean_auc,
        "auc_sd": auc_sd,
    }
