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
TRIES, TRIED_UNITS, PASSES = 64, 10_000, 10  # random orders of the units, of up to so many in all; passes over each


def check_fractions(fractions: Sequence[float]) -> np.ndarray:
    """Fractions of the three parts, (3,) float64.

    Raises
    ------
    DataError
        If they are not three numbers that add up to 1, one is negative, or nothing trains.
    """
    try:
        found = np.asarray(fractions, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (3,) or not np.isfinite(found).all():
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
) -> np.ndarray:
    """Divide cells into train, validation and test.

    Without units every class is divided by itself: it is in train, and in the other parts where it has enough cells
    (a class of two cells is in train and test). With units whole units go to one part. All begin in train; one goes to
    each other part, and then those whose move lowers the loss are moved, in random orders; the best end is taken. The
    loss is the squared distance of the shares of the parts from the fractions: in all cells, and on average over the
    classes. No move takes the last cell of a class from train, or the last unit from a part.

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

    Returns
    -------
    0 (train), 1 (validation), 2 (test) or -1 (none) of each cell, (n,) int8.

    Raises
    ------
    DataError
        If fractions are none, units are missing or fewer than the parts, or none can leave the training side without a
        class that would be missing there.
    """
    wanted, tasks = check_fractions(fractions), by_task(classes)
    known = labelled(tasks)
    parts = np.full(len(tasks), NONE, dtype=np.int8)
    if units is None:
        joint = np.unique(tasks[known], axis=0, return_inverse=True)[1].reshape(-1)
        parts[known] = _split_cells(joint, wanted, seed)
    else:
        unit = units_of(units, known)
        counts = _counts(tasks[known], unit, int(unit.max(initial=-1)) + 1)
        _check_units(counts, wanted)
        parts[known] = _split_units(counts, wanted, seed)[unit]
    return parts


def check_train(classes: np.ndarray, train: np.ndarray, names: Sequence[str] | None = None, where: str = "") -> None:
    """Refuse if no cell of a class trains.

    Parameters
    ----------
    classes
        As for :func:`split`.
    train
        Which cells train, (n,) bool.
    names
        Names of the classes, those of all tasks one after the other.
    where
        Said in the error, after the classes.

    Raises
    ------
    DataError
        If there is such a class.
    """
    counts = _counts(by_task(classes), train.astype(np.int64), 2)
    absent = np.flatnonzero((counts[0] > 0) & (counts[1] == 0))
    if len(absent):
        named = ", ".join(f"class {i}" if names is None else repr(names[i]) for i in absent.tolist())
        raise DataError(
            f"No cell of {named} would be on the training side{where}. Set the labels of these classes to missing, "
            "merge them with others, or split in another way."
        )


def by_task(classes: np.ndarray) -> np.ndarray:
    """Classes as (n, n_tasks)."""
    return classes[:, None] if classes.ndim == 1 else classes


def labelled(tasks: np.ndarray) -> np.ndarray:
    """Whether a cell has any label, (n,) bool."""
    return np.asarray((tasks >= 0).any(axis=1))


def units_of(units: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Number of the unit of every cell with a label, without gaps."""
    if n := int((units[known] < 0).sum()):
        raise DataError(
            f"{n} of {int(known.sum())} cells with a label belong to no unit (their value is missing). Give them one, "
            "or set their label to missing."
        )
    return np.unique(units[known], return_inverse=True)[1]


def _counts(tasks: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """Cells of each unit in each class of each task, (n_units, n_classes)."""
    blocks = []
    for codes in tasks.T:
        has, k = codes >= 0, int(codes.max(initial=-1)) + 1
        blocks.append(np.bincount(unit[has] * k + codes[has], minlength=n_units * k).reshape(n_units, k))
    return np.concatenate(blocks, axis=1)


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
    """Part of every unit: the best end of several random orders in which units move."""
    rng, used = np.random.default_rng(seed), np.flatnonzero(wanted)
    shares = counts / np.maximum(counts.sum(axis=0), 1)  # of each class
    cells = counts.sum(axis=1, keepdims=True) / counts.sum()
    measures = np.concatenate([shares / counts.shape[1] ** 0.5, cells], axis=1)  # (n_units, n_measures)
    target = wanted[used, None] * measures.sum(axis=0)
    tries = min(TRIES, max(1, TRIED_UNITS // len(counts)))
    ends = [_move(counts, measures, target, rng.permutation(len(counts))) for _ in range(tries)]
    return used[min(ends, key=lambda end: end[1])[0]].astype(np.int8)


def _move(counts: np.ndarray, measures: np.ndarray, target: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, float]:
    """Let units go, one after the other, where the loss is least, until none moves; their parts, and the loss."""
    n_parts, training, norm = len(target), counts.sum(axis=0), (measures**2).sum(axis=1)
    parts = np.zeros(len(counts), dtype=np.int64)
    parts[_first_to_leave(counts, training, order, n_parts - 1)] = np.arange(1, n_parts)
    members = np.bincount(parts, minlength=n_parts)
    training = counts[parts == TRAIN].sum(axis=0)
    off = np.stack([measures[parts == part].sum(axis=0) for part in range(n_parts)]) - target
    for _ in range(PASSES):
        before = parts.copy()
        for unit in order:
            here, own = parts[unit], measures[unit]
            if members[here] == 1 or (here == TRAIN and _is_last(counts[unit], training)):
                continue
            change = (off - off[here]) @ own + norm[unit]  # half of that of the loss
            change[here] = 0
            if (there := int(change.argmin())) != here:
                off[here], off[there] = off[here] - own, off[there] + own
                training = training + counts[unit] * (int(there == TRAIN) - int(here == TRAIN))
                members[[here, there]] += (-1, 1)
                parts[unit] = there
        if (parts == before).all():
            break
    return parts, float((off**2).sum())


def _is_last(unit: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Whether no other unit trains a class of this one, or of each of these."""
    return np.asarray(((unit > 0) & (unit == training)).any(axis=-1))


def _first_to_leave(counts: np.ndarray, training: np.ndarray, order: np.ndarray, n: int) -> list[int] | None:
    """The first `n` units in this order that can leave the training side together; None if there are none."""
    if n == 0:
        return []
    for unit in order[~_is_last(counts[order], training)]:
        others = _first_to_leave(counts, training - counts[unit], order[order != unit], n - 1)
        if others is not None:
            return [int(unit), *others]
    return None


def _check_units(counts: np.ndarray, wanted: np.ndarray) -> None:
    """Refuse if there are fewer units than parts, or a class would have to leave the training side with them."""
    used = [PARTS[part] for part in np.flatnonzero(wanted)]
    remedy = "Take fewer parts, such as fractions=(0.8, 0, 0.2), or split by a column with more values."
    if len(counts) < len(used):
        raise DataError(
            f"There are {len(counts)} units to divide into {len(used)} parts ({', '.join(used)}), and a unit is never "
            f"on two sides. {remedy}"
        )
    if _first_to_leave(counts, counts.sum(axis=0), np.arange(len(counts)), len(used) - 1) is None:
        raise DataError(
            f"The {len(counts)} units cannot be divided into {', '.join(used)}: too many of them are the only one with "
            f"cells of some class, which must train. {remedy} Or set the labels of such classes to missing."
        )
