"""Which cells train, validate and test; whole units (donors, batches) never stand on two sides.

Nothing here depends on the order of the rows beyond their numbering: who calls hands cells in the order of their names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
NONE = -1  # of cells that are in no part
TRIES, TRIED_UNITS, PASSES = 16, 20_000, 10  # random orders of the units, of up to so many in all; passes over each
MIN_GENES = 5  # of each class of genes


def check_fractions(fractions: Sequence[float]) -> np.ndarray:
    """Fractions of the three parts, (3,) float64.

    Raises
    ------
    DataError
        If they are not three numbers that add up to 1, one is negative, or nothing trains.
    """
    found = np.asarray(fractions, dtype=np.float64) if np.ndim(fractions) == 1 else np.empty(0)
    if len(found) != 3 or not np.isfinite(found).all():
        raise DataError(f"fractions={fractions!r} must be three numbers: of {', '.join(PARTS)}.")
    if (found < 0).any() or abs(found.sum() - 1) > 1e-6:
        raise DataError(f"fractions={fractions!r} must add up to 1 (they give {found.sum():g}), none negative.")
    if found[TRAIN] == 0:
        raise DataError(f"fractions={fractions!r} leave no cell to train on. The first must be above 0.")
    return found / found.sum()


def split(
    classes: np.ndarray,
    units: np.ndarray | None,
    fractions: Sequence[float],
    seed: int,
    *,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Divide cells into train, validation and test.

    Without units every class is divided by itself: it is in train, and in the other parts where it has enough cells
    (a class of two cells is in train and test). With units whole units go to one part. All begin in train; those whose
    move lowers the loss are moved, in random orders, and the best end is taken. The loss is the squared distance of the
    shares of the parts from the fractions: in all cells, and on average over the classes. No move takes the last cell
    of a class from train.

    Parameters
    ----------
    classes
        Class of each cell, (n,) int, or of several tasks, (n, n_tasks); -1 for none. Cells without any are in no part.
    units
        Unit of each cell, (n,) int: place among the sorted names. None divides cells.
    fractions
        Of the cells in train, validation and test.
    seed
        Of what is random.
    names
        Names of the classes, those of all tasks one after the other, for error messages.

    Returns
    -------
    0 (train), 1 (validation), 2 (test) or -1 (none) of each cell, (n,) int8.

    Raises
    ------
    DataError
        If fractions are none, units are missing or fewer than the parts, or a class can not be on the training side.
    """
    wanted, tasks = check_fractions(fractions), _tasks(classes)
    known: np.ndarray = (tasks >= 0).any(axis=1)
    parts = np.full(len(tasks), NONE, dtype=np.int8)
    if units is None:
        joint = np.unique(tasks[known], axis=0, return_inverse=True)[1].reshape(-1)
        parts[known] = _split_cells(joint, wanted, seed)
    else:
        unit = _units(units, known)
        counts = _counts(tasks[known], unit)
        _check_units(counts, wanted, names)
        parts[known] = _split_units(counts, wanted, seed)[unit]
    return parts


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
        As for :func:`split`; of several tasks the combinations are what is balanced.
    units
        Unit of each cell, (n,) int; None divides cells.
    n_folds
        Number of folds.
    seed
        Of what is random.
    names
        Names of the classes, for error messages.

    Returns
    -------
    Fold of each cell, (n,) int16, -1 for none.

    Raises
    ------
    DataError
        If there are fewer cells or units than folds, units are missing, or all cells of a class are in one fold.
    """
    tasks = _tasks(classes)
    known: np.ndarray = (tasks >= 0).any(axis=1)
    joint = np.unique(tasks[known], axis=0, return_inverse=True)[1].reshape(-1)
    unit = None if units is None else _units(units, known)
    n, what = (len(joint), "cells") if unit is None else (len(np.unique(unit)), "units")
    if not 2 <= n_folds <= n:
        raise DataError(f"n_folds={n_folds} must be at least 2 and at most the number of {what} with a label, {n}.")
    of_cell = np.full(len(tasks), NONE, dtype=np.int16)
    of_cell[known] = _deal(joint, unit, n_folds, seed)
    check_folds(tasks, of_cell, names)
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
    of_gene[known] = _deal(classes[known], None, n_folds, seed)
    return of_gene


def check_train(classes: np.ndarray, train: np.ndarray, names: Sequence[str] | None = None, where: str = "") -> None:
    """Refuse if a class of the cells is not among those that train.

    Parameters
    ----------
    classes
        As for :func:`split`.
    train
        Which cells train, (n,) bool.
    names
        Names of the classes.
    where
        Said in the error, after the classes.

    Raises
    ------
    DataError
        If there is such a class.
    """
    tasks = _tasks(classes)
    sides = np.where((tasks >= 0).any(axis=1), train.astype(np.int64), NONE)
    counts = _counts(tasks[sides >= 0], np.append(sides[sides >= 0], [0, 1]))
    if absent := _named(np.flatnonzero((counts[0] > 0) & (counts[1] == 0)), names):
        raise DataError(
            f"No cell of {absent} would be on the training side{where}. Set the labels of these classes to missing, "
            "merge them with others, or split in another way."
        )


def check_folds(classes: np.ndarray, of_cell: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Refuse if a fold is empty, or all cells of a class are in one fold.

    Parameters
    ----------
    classes
        As for :func:`split`.
    of_cell
        Fold of each cell, (n,) int, -1 for none.
    names
        Names of the classes.

    Raises
    ------
    DataError
        If so.
    """
    sizes = np.bincount(of_cell[of_cell >= 0])
    if len(sizes) < 2 or not sizes.all():
        raise DataError(f"There must be at least two folds, none empty; they have {sizes.tolist()} cells.")
    for fold in range(len(sizes)):
        inside = of_cell >= 0
        only = np.where(inside[:, None], _tasks(classes), NONE)
        check_train(only, inside & (of_cell != fold), names, f", while fold {fold} is the test part")


def _tasks(classes: np.ndarray) -> np.ndarray:
    """Classes as (n, n_tasks)."""
    return classes[:, None] if classes.ndim == 1 else classes


def _units(units: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Number of the unit of every cell with a label, without gaps."""
    if n := int((units[known] < 0).sum()):
        raise DataError(
            f"{n} of {int(known.sum())} cells with a label belong to no unit (their value is missing). Give them one, "
            "or set their label to missing."
        )
    return np.unique(units[known], return_inverse=True)[1]


def _counts(tasks: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Cells of each unit in each class of each task, (n_units, n_classes); `unit` may be longer, to name more units."""
    n_units, blocks = int(unit.max(initial=-1)) + 1, []
    for codes in tasks.T:
        has, k = codes >= 0, int(codes.max(initial=-1)) + 1
        flat = np.bincount(unit[: len(codes)][has] * k + codes[has], minlength=n_units * k)
        blocks.append(flat.reshape(n_units, k))
    return np.concatenate(blocks, axis=1)


def _named(classes: np.ndarray, names: Sequence[str] | None) -> str:
    """Classes for an error message."""
    return ", ".join(repr(names[i]) if names is not None else f"class {i}" for i in classes)


def _split_cells(joint: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Part of every cell; each class is divided by itself, in a random order of its cells."""
    parts = np.empty(len(joint), dtype=np.int8)
    for code in range(int(joint.max(initial=-1)) + 1):
        cells = np.random.default_rng((seed, code)).permutation(np.flatnonzero(joint == code))
        parts[cells] = np.repeat(np.arange(3, dtype=np.int8), _sizes(len(cells), wanted))
    return parts


def _sizes(n: int, wanted: np.ndarray) -> np.ndarray:
    """How `n` cells are shared out: at least one to train, then to test, then to validation, as long as there are any.

    The rest goes by the largest remainder.
    """
    sizes = np.zeros(3, dtype=np.int64)
    sizes[[part for part in (TRAIN, TEST, VALIDATION) if wanted[part] > 0][:n]] = 1
    left = np.maximum(wanted * n - sizes, 0)
    if (rest := n - int(sizes.sum())) > 0 and left.sum() > 0:
        exact = left * rest / left.sum()
        sizes += exact.astype(np.int64)
        order = np.argsort(-(exact % 1), kind="stable")
        sizes[order[: n - int(sizes.sum())]] += 1
    return sizes


def _split_units(counts: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Part of every unit: the best of several random orders in which units leave the training side."""
    rng, n_units = np.random.default_rng(seed), len(counts)
    shares = counts / np.maximum(counts.sum(axis=0), 1)  # of each class
    cells = counts.sum(axis=1, keepdims=True) / counts.sum()
    measures = np.concatenate([shares / max(counts.shape[1], 1) ** 0.5, cells], axis=1)  # (n_units, n_measures)
    target = wanted[:, None] * measures.sum(axis=0)
    best, least = np.zeros(n_units, dtype=np.int8), np.inf
    for _ in range(max(1, min(TRIES, TRIED_UNITS // max(n_units, 1)))):
        parts, loss = _one_order(counts, measures, target, wanted, rng.permutation(n_units))
        if loss < least - 1e-12:
            best, least = parts, loss
    return best


def _one_order(
    counts: np.ndarray, measures: np.ndarray, target: np.ndarray, wanted: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, float]:
    """Move units, one after the other, to the part where the loss is least, until none moves; parts and loss."""
    parts = np.zeros(len(counts), dtype=np.int8)
    reached = np.zeros_like(target)
    reached[TRAIN] = measures.sum(axis=0)
    training = counts.sum(axis=0)
    used = [part for part in range(3) if wanted[part] > 0]
    members = np.bincount(parts, minlength=3)
    for number in range(PASSES):
        moved = False
        for unit in order:
            here = int(parts[unit])
            if here == TRAIN and ((counts[unit] > 0) & (training == counts[unit])).any():
                continue  # the last unit of a class that trains
            if number and members[here] == 1:
                continue  # no part becomes empty again
            losses = [_loss(reached, target, measures[unit], here, part) for part in used]
            there = used[int(np.argmin(losses))]
            empty = [part for part in used if not members[part]]
            if empty and here == TRAIN and members[TRAIN] > 1:
                there = empty[0] if losses[used.index(empty[0])] < losses[used.index(here)] or number else there
            if there == here:
                continue
            reached[here] -= measures[unit]
            reached[there] += measures[unit]
            training += counts[unit] * ((there == TRAIN) - (here == TRAIN))
            members[here] -= 1
            members[there] += 1
            parts[unit], moved = there, True
        if not moved:
            break
    return parts, float(((reached - target) ** 2).sum()) + (np.inf if (members[used] == 0).any() else 0)


def _loss(reached: np.ndarray, target: np.ndarray, unit: np.ndarray, here: int, there: int) -> float:
    """Squared distance from the target if a unit went from one part to another."""
    after = reached.copy()
    after[here] -= unit
    after[there] += unit
    return float(((after - target) ** 2).sum())


def _check_units(counts: np.ndarray, wanted: np.ndarray, names: Sequence[str] | None) -> None:
    """Refuse if there are fewer units than parts."""
    used = [PARTS[part] for part in range(3) if wanted[part] > 0]
    if len(counts) < len(used):
        raise DataError(
            f"There are {len(counts)} units to divide into {len(used)} parts ({', '.join(used)}), and a unit is never "
            "on two sides. Take fewer parts, such as fractions=(0.8, 0, 0.2), or split by a column with more values."
        )


def _deal(joint: np.ndarray, unit: np.ndarray | None, n_folds: int, seed: int) -> np.ndarray:
    """Fold of every cell, by scikit-learn; units stay whole."""
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    maker = StratifiedKFold if unit is None else StratifiedGroupKFold
    found = np.empty(len(joint), dtype=np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer cells than folds; check_folds decides
        dealt = maker(n_folds, shuffle=True, random_state=seed).split(np.zeros(len(joint)), joint, unit)
        for fold, (_, test) in enumerate(dealt):
            found[test] = fold
    return found
