"""Folds of cells and of genes, each of which is the test part once; whole units of cells stay in one fold."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._errors import DataError
from scgeneformer._training.splits import NONE, by_task, check_train, labelled, units_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_GENES = 5  # of each class of genes


def folds(
    classes: np.ndarray,
    units: np.ndarray | None,
    n_folds: int,
    seed: int,
    *,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Divide cells into folds of about the same size and classes, each of which is the test part once.

    Parameters
    ----------
    classes
        As for :func:`splits.split`; of several tasks the combinations are what is balanced.
    units
        Unit of each cell, (n,) int; None divides cells.
    n_folds
        Number of folds.
    seed
        Of what is random.
    names
        Names of the classes, those of all tasks one after the other, for error messages.

    Returns
    -------
    Fold of each cell, (n,) int16, -1 for none.

    Raises
    ------
    DataError
        If there are fewer cells or units than folds, or in every class fewer cells, units are missing, or all cells of
        a class are in one fold.
    """
    tasks = by_task(classes)
    known = labelled(tasks)
    joint = np.unique(tasks[known], axis=0, return_inverse=True)[1].reshape(-1)
    unit = None if units is None else units_of(units, known)
    n, what = (len(joint), "cells") if unit is None else (len(np.unique(unit)), "units")
    if not 2 <= n_folds <= n:
        raise DataError(f"n_folds={n_folds} must be at least 2 and at most the number of {what} with a label, {n}.")
    of_cell = np.full(len(tasks), NONE, dtype=np.int16)
    if (most := int(np.bincount(joint).max())) < n_folds:
        raise DataError(f"n_folds={n_folds} is more than the largest class has cells, {most}. Take fewer folds.")
    of_cell[known] = deal(joint, unit, n_folds, seed)
    check_folds(tasks, of_cell, n_folds, names)
    return of_cell


def gene_folds(classes: np.ndarray, n_folds: int, seed: int = 0) -> np.ndarray:
    """Divide genes into folds with the same share of every class, as the reference does.

    Parameters
    ----------
    classes
        Class of each gene, (n,) int, -1 for none.
    n_folds
        Number of folds.
    seed
        Of the shuffling.

    Returns
    -------
    Fold of each gene, (n,) int16, -1 for none.

    Raises
    ------
    DataError
        If a class has fewer than 5 genes, or fewer genes than there are folds.
    """
    known = classes >= 0
    smallest = int(np.bincount(classes[known]).min()) if known.any() else 0
    if n_folds < 2 or smallest < max(MIN_GENES, n_folds):
        raise DataError(
            f"n_folds={n_folds}: there must be at least 2 folds, and every class needs at least {MIN_GENES} genes and "
            f"one per fold; the smallest has {smallest}. Take fewer folds, or list more genes."
        )
    of_gene = np.full(len(classes), NONE, dtype=np.int16)
    of_gene[known] = deal(classes[known], None, n_folds, seed)
    return of_gene


def check_folds(
    classes: np.ndarray, of_cell: np.ndarray, n_folds: int, names: Sequence[str] | None = None, where: str = ""
) -> None:
    """Refuse if a fold is empty, or all cells of a class are in one fold.

    Parameters
    ----------
    classes
        As for :func:`splits.split`.
    of_cell
        Fold of each cell, (n,) int, -1 for none.
    n_folds
        Number of folds.
    names
        Names of the classes, those of all tasks one after the other.
    where
        Said in the error, after the classes.

    Raises
    ------
    DataError
        If so.
    """
    sizes = np.bincount(of_cell[of_cell >= 0], minlength=n_folds)
    if not sizes.all():
        raise DataError(
            f"Each of the {n_folds} folds must have a cell with a label{where}; they have {sizes.tolist()}."
        )
    for fold in range(n_folds):
        check_train(classes, (of_cell >= 0) & (of_cell != fold), names, f", while fold {fold} is the test part{where}")


def deal(joint: np.ndarray, unit: np.ndarray | None, n_folds: int, seed: int) -> np.ndarray:
    """Fold of every cell, by scikit-learn; units stay whole."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    maker = StratifiedKFold if unit is None else StratifiedGroupKFold
    found = np.empty(len(joint), dtype=np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer cells than folds; check_folds decides
        dealt = maker(n_folds, shuffle=True, random_state=seed).split(np.zeros(len(joint)), joint, unit)
        for fold, (_, test) in enumerate(dealt):
            found[test] = fold
    return found
