"""Simple methods that tell classes from features, beside which fine-tuning is judged; arrays only."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._training.folds import deal
from scgeneformer._training.scores import score

if TYPE_CHECKING:
    from collections.abc import Callable

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # values of C that are tried: small is strong regularization
DEFAULT = 0.1  # C where there are too few cells to choose it
INNER_FOLDS = 3


@dataclass(frozen=True)
class Settings:
    """What the methods leave open.

    Parameters
    ----------
    C
        Inverse strength of the regularization; None chooses it.
    n_neighbors
        Neighbors that vote.
    seed
        Of what is random.
    """

    C: float | None = None
    n_neighbors: int = 15
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """How one method is made.

    Parameters
    ----------
    make
        Gives the estimator, from the settings, C and the number of training cells.
    regularized
        Whether it is; then features are standardized on the training cells, and C is chosen.
    """

    make: Callable[[Settings, float, int], Any]
    regularized: bool


def _logistic(settings: Settings, strength: float, n_train: int, *, l1: bool) -> Any:
    """Multinomial logistic regression; an L1 penalty is a Laplace prior of the weights."""
    from sklearn.linear_model import LogisticRegression

    if l1:
        return LogisticRegression(
            C=strength,
            l1_ratio=1.0,
            penalty="elasticnet",
            solver="saga",
            max_iter=200,
            tol=1e-3,
            random_state=settings.seed,
        )
    return LogisticRegression(C=strength, max_iter=1000)


def _neighbors(settings: Settings, _: float, n_train: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(min(settings.n_neighbors, n_train))


METHODS = {
    "logistic": Method(partial(_logistic, l1=False), regularized=True),
    "logistic_l1": Method(partial(_logistic, l1=True), regularized=True),
    "knn": Method(_neighbors, regularized=False),
}


def tell(
    method: str,
    features: np.ndarray,
    codes: np.ndarray,
    train: np.ndarray,
    told: np.ndarray,
    *,
    validation: np.ndarray | None = None,
    units: np.ndarray | None = None,
    settings: Settings,
) -> tuple[np.ndarray, float | None]:
    """Train on some cells and tell the classes of others.

    Parameters
    ----------
    method
        One of :data:`METHODS`.
    features
        (n, d) float, of all cells.
    codes
        Class of each cell, (n,) int; those of `train` and `validation` are from 0.
    train, told
        Which cells train, and which are told, (n,) bool.
    validation
        Cells on which C is chosen by log loss, (n,) bool; None: on folds of the training cells.
    units
        Unit of each cell, (n,) int: the folds keep them whole.
    settings
        What the method leaves open.

    Returns
    -------
    Probabilities (n_told, n_classes) float64, 0 for classes that do not train; and C, None if there is none.
    """
    how, n_classes = METHODS[method], int(codes.max()) + 1

    def run(fitted: np.ndarray, others: np.ndarray, strength: float) -> np.ndarray:
        model = how.make(settings, strength, int(fitted.sum()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="sklearn")  # the last digits of saga; deprecations
            model.fit(x[fitted], codes[fitted])
        found = np.zeros((int(others.sum()), n_classes))
        found[:, model.classes_] = model.predict_proba(x[others])
        return found

    if not how.regularized:
        x = features
        return run(train, told, np.nan), None
    x = _standardized(features, train)
    strength = settings.C
    if strength is None:
        inner = _inner(codes, train, units, settings.seed) if validation is None else [(train, validation)]
        losses = [
            [score(codes[held], run(fitted, held, c)).summary["log_loss"] for fitted, held in inner] for c in STRENGTHS
        ]
        strength = STRENGTHS[int(np.mean(losses, axis=1).argmin())] if inner else DEFAULT
    return run(train, told, strength), strength


def _standardized(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Features with mean 0 and standard deviation 1 over the training cells."""
    known = features[train].astype(np.float64)
    spread = known.std(axis=0)
    return (features - known.mean(axis=0)) / np.where(spread > 0, spread, 1)


def _inner(
    codes: np.ndarray, train: np.ndarray, units: np.ndarray | None, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which of the training cells train and which are held out, in each of a few folds."""
    inside = None if units is None or len(np.unique(units[train])) < 2 else units[train]
    n_units = int(train.sum()) if inside is None else len(np.unique(inside))
    n = min(INNER_FOLDS, n_units, int(np.bincount(codes[train]).max()))
    if n < 2:
        return []
    of_cell = np.full(len(train), -1)
    of_cell[train] = deal(codes[train], inside, n, seed)
    pairs = [(train & (of_cell != fold), of_cell == fold) for fold in range(n)]
    return [(fitted, held) for fitted, held in pairs if held.any() and len(np.unique(codes[fitted])) > 1]
