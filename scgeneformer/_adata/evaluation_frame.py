"""The comparison of classifiers in `uns`, read by the functions that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer._adata import keys
from scgeneformer._checks import as_names
from scgeneformer._errors import DataError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

FORM = {"classes", "methods", "table", "per_class", "confusion", "reliability"}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What is stored of some methods.

    Parameters
    ----------
    classes
        Names of the classes.
    methods
        Names of the methods.
    table
        Scores, methods × scores.
    per_class, reliability
        Scores of each method and class; bins of confidence of each method.
    confusion
        Cells by true and predicted class, (n_methods, n_classes, n_classes) int64.
    """

    classes: list[str]
    methods: list[str]
    table: pd.DataFrame
    per_class: pd.DataFrame
    confusion: np.ndarray
    reliability: pd.DataFrame


def read_comparison(
    adata: AnnData, label: str, methods: str | Sequence[str] | None = None, key: str | None = None
) -> Comparison:
    """Read the comparison of some methods, or of all.

    Parameters
    ----------
    adata
        The data.
    label
        Label that the methods tell.
    methods
        Names of methods, in the order wanted; None means all.
    key
        Key in `uns`; None means that of the label.

    Raises
    ------
    MissingKeyError
        If no such comparison is stored.
    DataError
        If there is no such method, or something else is stored there.
    """
    key = keys.evaluation_key(str(label)) if key is None else key
    stored: Any = adata.uns.get(key)
    if stored is None:
        others = [name for name, value in adata.uns.items() if isinstance(value, dict) and set(value) >= FORM]
        raise MissingKeyError(
            f"adata.uns[{key!r}] does not exist; comparisons are in: {', '.join(map(repr, others)) or 'none'}. Run "
            f"gf.tl.probe(adata, {str(label)!r}) or gf.tl.train_classifier(adata, {str(label)!r}) first."
        )
    if not isinstance(stored, dict) or not set(stored) >= FORM:
        raise DataError(f"adata.uns[{key!r}] holds no comparison of classifiers. Name another with key=.")
    present = [str(name) for name in stored["methods"]]
    chosen = present if methods is None else list(dict.fromkeys(as_names(methods)))
    if missing := [name for name in chosen if name not in present]:
        raise DataError(f"There is no method {missing[0]!r} in adata.uns[{key!r}]; there are: {present}.")
    return Comparison(
        [str(name) for name in stored["classes"]],
        chosen,
        stored["table"].loc[chosen],
        _of(stored["per_class"], chosen),
        np.asarray(stored["confusion"])[[present.index(name) for name in chosen]],
        _of(stored["reliability"], chosen),
    )


def _of(frame: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Rows of these methods, in their order, numbered."""
    parts = [frame[frame["method"].astype(str) == name] for name in methods]
    return pd.concat(parts, ignore_index=True).astype({"method": str})
