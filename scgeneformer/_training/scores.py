"""How well probabilities of classes fit true classes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

N_BINS = 10
TINY = np.finfo(np.float64).eps  # probabilities below count as this in the logarithm, as in log_loss of scikit-learn


@dataclass(frozen=True, eq=False)
class Scores:
    """Metrics of one method on some cells.

    Parameters
    ----------
    summary
        accuracy, balanced_accuracy, macro_f1, auc, log_loss, calibration_error, n_test.
    per_class
        precision, recall, f1, auc and n of each class, (n_classes, 5); NaN where a class is neither there nor told.
    confusion
        Cells by true (row) and told (column) class, (n_classes, n_classes) int64.
    reliability
        confidence and accuracy of the cells in ten bins of the largest probability, and their number n, (10, 3).
    """

    summary: dict[str, float]
    per_class: pd.DataFrame
    confusion: np.ndarray
    reliability: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, lists and dictionaries, NaN as None, for JSON."""
        return {
            **_plain_row(self.summary),
            "per_class": {c: _plain_row(row) for c, row in self.per_class.to_dict("index").items()},
            "confusion": self.confusion.tolist(),
            "reliability": [_plain_row(row) for row in self.reliability.to_dict("records")],
        }


def score(truth: np.ndarray, probability: np.ndarray, classes: list[str] | None = None) -> Scores:
    """Judge probabilities by true classes.

    Parameters
    ----------
    truth
        True class of each cell, (n,) int; -1 is not counted.
    probability
        (n, n_classes); rows with NaN are not counted.
    classes
        Names of the classes, the index of `per_class`; None numbers them.

    Returns
    -------
    The scores. Macro F1 and balanced accuracy are means over the classes that occur (macro F1: or are told). AUC is the
    area under the ROC curve, of several classes the mean of one versus the rest over the classes that occur. The
    calibration error is the mean difference of confidence and accuracy in ten bins, weighted by their cells (Guo et al.
    2017).
    """
    counted = (truth >= 0) & ~np.isnan(probability).any(axis=1)
    truth, probability = truth[counted], probability[counted].astype(np.float64)
    n_classes = probability.shape[1]
    told = probability.argmax(axis=1) if len(truth) else np.empty(0, np.int64)
    confusion = np.bincount(truth * n_classes + told, minlength=n_classes**2).reshape(n_classes, n_classes)
    per_class = _per_class(truth, probability, confusion)
    per_class.index = pd.Index(range(n_classes) if classes is None else classes)
    reliability = _reliability(probability.max(axis=1, initial=0.0), truth == told)
    gaps = (reliability["confidence"] - reliability["accuracy"]).abs() * reliability["n"]
    n, there = len(truth), confusion.sum(axis=1) > 0
    true = probability[np.arange(n), truth] / probability.sum(axis=1)
    summary = {
        "accuracy": _mean(truth == told),
        "balanced_accuracy": _mean(per_class["recall"].to_numpy()[there]),
        "macro_f1": _mean(per_class["f1"].dropna().to_numpy()),
        "auc": _mean(per_class["auc"].dropna().to_numpy()),
        "log_loss": _mean(-np.log(np.clip(true, TINY, 1))),
        "calibration_error": float(gaps.sum() / n) if n else np.nan,
        "n_test": n,
    }
    return Scores(summary, per_class, confusion.astype(np.int64), reliability)


def _per_class(truth: np.ndarray, probability: np.ndarray, confusion: np.ndarray) -> pd.DataFrame:
    from sklearn.metrics import roc_auc_score

    right, there, told = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")
        recall, f1 = right / there, 2 * right / (there + told)
        precision = np.where((told == 0) & (there > 0), 0.0, right / told)
    auc = [roc_auc_score(truth == i, probability[:, i]) if 0 < n < len(truth) else np.nan for i, n in enumerate(there)]
    return pd.DataFrame({"precision": precision, "recall": recall, "f1": f1, "auc": auc, "n": there})


def _reliability(confidence: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Mean confidence and accuracy of the cells in each bin of confidence."""
    place = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    n = np.bincount(place, minlength=N_BINS)
    with np.errstate(invalid="ignore"):
        mean, share = (np.bincount(place, x, minlength=N_BINS) / n for x in (confidence, right.astype(float)))
    return pd.DataFrame({"confidence": mean, "accuracy": share, "n": n})


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def _plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> float | int | None:
    """A number as JSON has it: whole numbers of cells whole, none for NaN."""
    if isinstance(value, int | np.integer):
        return int(value)
    return None if np.isnan(value) else float(value)
