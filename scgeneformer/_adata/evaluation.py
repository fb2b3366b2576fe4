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
    """The entry with one method added to those that were judged on the same cells and classes.

    Parameters
    ----------
    adata
        Where the former entry is, if there is one.
    key
        Where in `uns` it is stored.
    classes
        Names of the classes.
    split
        How the cells were divided, with a "checksum".
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
    before = adata.uns.get(key)
    if before is not None and not _comparable(before, classes, split):
        logg.info(f"    uns[{key!r}] was about other cells or classes, and begins anew")
        before = None
    return with_method(before, classes, split, method, scores, n_train=n_train, n_unseen=n_unseen)


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
    row = pd.DataFrame([{**scores.summary, "n_train": n_train, "n_unseen": n_unseen}], index=[method])[list(TABLE)]
    per_class = scores.per_class.reset_index(names="class").astype({"class": str}).assign(method=method)
    per_class["class"] = classes
    reliability = scores.reliability.assign(method=method)
    if before is None:
        methods, table, of_classes, of_bins, confusion = [], None, None, None, []
    else:
        kept = [i for i, name in enumerate(before["methods"]) if name != method]
        methods = [str(before["methods"][i]) for i in kept]
        confusion = [before["confusion"][i] for i in kept]
        table = before["table"].drop(index=method, errors="ignore")
        of_classes = before["per_class"][before["per_class"]["method"] != method]
        of_bins = before["reliability"][before["reliability"]["method"] != method]
    return {
        "classes": np.array(classes),
        "methods": np.array([*methods, method]),
        "table": _stacked(table, row),
        "per_class": _numbered(_stacked(of_classes, per_class)),
        "confusion": np.stack([*confusion, scores.confusion]),
        "reliability": _numbered(_stacked(of_bins, reliability)),
        "split": split,
    }


def _comparable(before: dict[str, Any], classes: list[str], split: dict[str, Any]) -> bool:
    same = before["split"].get("checksum") == split.get("checksum")
    return same and [str(name) for name in before["classes"]] == classes


def _stacked(before: pd.DataFrame | None, one: pd.DataFrame) -> pd.DataFrame:
    return one if before is None or before.empty else pd.concat([before, one])


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """With a plain text index, which h5ad keeps as it is."""
    frame = frame[["method", *frame.columns.drop("method")]]
    return frame.set_axis(pd.Index([str(i) for i in range(len(frame))]), axis=0)
