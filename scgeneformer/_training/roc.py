"""ROC curves of several folds and their mean, interpolated as the reference does."""

from __future__ import annotations

import numpy as np

FPR = np.linspace(0, 1, 100)  # false positive rates at which all curves are read


def fold_curve(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, float, int]:
    """ROC curve of one fold on common false positive rates (`get_metrics` of the reference).

    Parameters
    ----------
    truth
        Whether each row is of the positive class, (n,) bool; both classes must occur.
    score
        Its probability of being so, (n,).

    Returns
    -------
    True positive rates at :data:`FPR`, (100,) float64, the first of them 0; the area under the whole curve; and its
    number of corners, which is the weight of the fold.
    """
    from sklearn.metrics import auc, roc_curve

    fpr, tpr, _ = roc_curve(truth, score)
    at = np.interp(FPR, fpr, tpr)
    at[0] = 0.0
    return at, float(auc(fpr, tpr)), len(tpr)


def mean_curve(tpr: np.ndarray, auc: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Mean of the curves of all folds (`get_cross_valid_roc_metrics` of the reference).

    Parameters
    ----------
    tpr, auc, weights
        What :func:`fold_curve` gave for each fold, (n_folds, 100), (n_folds,), (n_folds,).

    Returns
    -------
    Weighted mean of the true positive rates, (100,), the last of them 1; weighted mean of the areas; and their weighted
    standard deviation.
    """
    mean = np.average(tpr, axis=0, weights=weights)
    mean[-1] = 1.0
    area = float(np.average(auc, weights=weights))
    return mean, area, float(np.sqrt(np.average((auc - area) ** 2, weights=weights)))
