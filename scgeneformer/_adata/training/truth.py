"""True labels of cells beside what a classifier tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.frames import read_obs
from scgeneformer._adata.training.evaluation import evaluation
from scgeneformer._adata.training.labels import as_text, digest
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from anndata import AnnData

    class Task(Protocol):
        """One thing that a classifier tells: a label and its classes."""

        @property
        def label(self) -> str:
            """Name of the label."""

        @property
        def classes(self) -> list[str]:
            """Names of its classes."""


@dataclass(frozen=True, eq=False)
class Truth:
    """True class of every cell.

    Parameters
    ----------
    column
        Column of `obs`.
    task
        Which of the things that the classifier tells it belongs to.
    classes
        Those of the classifier.
    codes
        Number of the class, (n_obs,) int64, -1 without a label or with one that the classifier does not know.
    n_unseen
        Cells with a label that the classifier does not know.
    """

    column: str
    task: int
    classes: list[str]
    codes: np.ndarray
    n_unseen: int


def find_truth(adata: AnnData, column: str, tasks: Sequence[Task]) -> Truth:
    """True labels as numbers of the classifier's classes.

    Parameters
    ----------
    adata
        The data.
    column
        Column of `obs` with the true labels.
    tasks
        What the classifier tells; where it tells several things, `column` must be the name of one.

    Raises
    ------
    MissingKeyError
        If there is no such column.
    DataError
        If none of its labels is a class of the classifier.
    """
    labels = read_obs(adata, [column], "truth")[column]
    names = [task.label for task in tasks]
    if column not in names and len(tasks) > 1:
        raise DataError(
            f"truth={column!r}: the classifier tells {', '.join(map(repr, names))}. Name the column with the true "
            "labels like one of them."
        )
    number = names.index(column) if column in names else 0
    classes = tasks[number].classes
    known = labels.notna().to_numpy()
    code_of = {name: i for i, name in enumerate(classes)}
    codes = np.array([code_of.get(as_text(label), -1) for label in labels], dtype=np.int64)
    codes[~known] = -1
    if not (codes >= 0).any():
        some = ", ".join(map(repr, sorted(map(as_text, labels[known].unique()))[:5]))
        raise DataError(
            f"adata.obs[{column!r}] has no label that the classifier knows: it holds {some}, the classifier tells "
            f"{', '.join(map(repr, classes[:5]))}. Rename the labels alike."
        )
    unseen = known & (codes < 0)
    if n := int(unseen.sum()):
        names = sorted(map(as_text, labels[unseen].unique()))
        logg.info(f"    {n} cells have a label the classifier does not know, and are not judged: {', '.join(names)}")
    return Truth(column, number, classes, codes, n)


def judge(adata: AnnData, truth: Truth, probabilities: list[np.ndarray], key: str, method: str) -> dict[str, Any]:
    """Evaluation of what a classifier tells of all cells with a true label, as stored in `uns`."""
    from scgeneformer._training.scores import score

    probability = probabilities[truth.task]
    judged = (truth.codes >= 0) & ~np.isnan(probability).any(axis=1)
    split = {"cells": "all with a label", "checksum": digest(adata, np.where(judged, truth.codes, -1))}
    scores = score(truth.codes[judged], probability[judged])
    return evaluation(adata, key, truth.classes, split, method, scores, n_train=0, n_unseen=truth.n_unseen)
