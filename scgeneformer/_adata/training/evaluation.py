"""How methods compare on cells that none of them was trained on: the entry of `uns` that all of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scanpy import logging as logg

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer._training.scores import Scores

TABLE = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auc",
    "log_loss",
    "calibration_error",
    "n_train",
    "n_test",
    "n_unseen",
)


def evaluation(
    adata: AnnData,
    key: str,
    classes: list[str],
    split: dict[str, Any],
    method: str,
    scores: Scores,
    *,
    n_train: int,
    n_unseen: int = 0,
) -> dict[str, Any]:
    """The entry with one method added to those that were judged on the same cells and labels.

    Parameters
    ----------
    adata
        Where the former entry is, if there is one.
    key
        Where in `uns` it is stored.
    classes
        Names of the classes.
    split
        How the cells were divided, with a "checksum" and, of a :class:`Split`, the "truth" of the held-out cells.
    method
        Name of the method.
    scores
        Its scores.
    n_train
        Cells it was trained on.
    n_unseen
        Cells whose label is none of the classes.

    Returns
    -------
    The value of ``uns[key]``; it survives h5ad and zarr.
    """
    before = comparable(adata, key, classes, split)
    return with_method(before, classes, split, method, scores, n_train=n_train, n_unseen=n_unseen)


def comparable(adata: AnnData, key: str, classes: list[str], split: dict[str, Any]) -> dict[str, Any] | None:
    """The entry, if it is about the same cells and labels; parameters are those of :func:`evaluation`."""
    before = adata.uns.get(key)
    if before is None:
        return None
    same = all(before["split"].get(name) == split.get(name) for name in ("checksum", "truth"))
    if same and list(map(str, before["classes"])) == classes:
        return before
    logg.info(f"    uns[{key!r}] was about other cells or labels, and begins anew")
    return None


def with_method(
    before: dict[str, Any] | None,
    classes: list[str],
    split: dict[str, Any],
    method: str,
    scores: Scores,
    *,
    n_train: int,
    n_unseen: int = 0,
) -> dict[str, Any]:
    """An entry, or none, with one method added; parameters are those of :func:`evaluation`."""
    row = {**scores.summary, "n_train": n_train, "n_unseen": n_unseen}
    one: dict[str, Any] = {
        "methods": np.array([method]),
        "table": pd.DataFrame([row], index=[method])[list(TABLE)],
        "per_class": scores.per_class.reset_index(drop=True).assign(**{"method": method, "class": classes}),
        "confusion": scores.confusion[None],
        "reliability": scores.reliability.assign(method=method),
    }
    all_of = [entry for entry in (_without(before, method), one) if entry and len(entry["methods"])]
    return {
        "classes": np.array(classes),
        "methods": np.array([str(name) for entry in all_of for name in entry["methods"]]),
        "table": pd.concat([entry["table"] for entry in all_of]),
        "per_class": _joined([entry["per_class"] for entry in all_of], "method", "class"),
        "confusion": np.concatenate([entry["confusion"] for entry in all_of]),
        "reliability": _joined([entry["reliability"] for entry in all_of], "method"),
        "split": split,
    }


def _without(entry: dict[str, Any] | None, method: str) -> dict[str, Any] | None:
    """An entry without one method."""
    if entry is None:
        return None
    kept = np.array([str(name) != method for name in entry["methods"]])
    return {
        "methods": np.asarray(entry["methods"])[kept],
        "table": entry["table"].drop(index=method, errors="ignore"),
        "per_class": entry["per_class"][entry["per_class"]["method"] != method],
        "confusion": np.asarray(entry["confusion"])[kept],
        "reliability": entry["reliability"][entry["reliability"]["method"] != method],
    }


def _joined(frames: list[pd.DataFrame], *first: str) -> pd.DataFrame:
    """One below the other, some columns first, with a plain text index, which h5ad keeps as it is."""
    frame = pd.concat(frames)
    frame = frame[[*first, *frame.columns.drop(list(first))]]
    return frame.set_axis(pd.Index([str(i) for i in range(len(frame))]), axis=0)
