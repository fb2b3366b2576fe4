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


def read_comparison(adata: AnnData, label: str, methods: str | Sequence[str] | None = None) -> Comparison:
    """Read the comparison of some methods, or of all.

    Parameters
    ----------
    adata
        The data.
    label
        What the methods tell, or the key of a comparison in `uns`.
    methods
        Names of methods, in the order wanted; None means all.

    Raises
    ------
    MissingKeyError
        If no such comparison is stored.
    DataError
        If there is no such method.
    """
    key = next(
        (key for key in (str(label), keys.evaluation_key(str(label))) if _is_comparison(adata.uns.get(key))), None
    )
    if key is None:
        others = ", ".join(repr(name) for name, value in adata.uns.items() if _is_comparison(value)) or "none"
        raise MissingKeyError(
            f"adata.uns[{keys.evaluation_key(str(label))!r}] does not exist, or holds no comparison of classifiers; "
            f"those that do: {others}. Run gf.tl.probe(adata, {str(label)!r}) or gf.tl.train_classifier first."
        )
    stored = adata.uns[key]
    present = [str(name) for name in stored["methods"]]
    chosen = present if methods is None else list(dict.fromkeys(as_names(methods)))
    if missing := [name for name in chosen if name not in present]:
        raise DataError(
            f"The method {missing[0]!r} does not exist in adata.uns[{key!r}]; the methods are: "
            f"{', '.join(map(repr, present))}."
        )
    return Comparison(
        [str(name) for name in stored["classes"]],
        chosen,
        stored["table"].loc[chosen],
        _of(stored["per_class"], chosen),
        np.asarray(stored["confusion"])[[present.index(name) for name in chosen]],
        _of(stored["reliability"], chosen),
    )


def _is_comparison(value: Any) -> bool:
    return isinstance(value, dict) and set(value) >= FORM


def _of(frame: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Rows of these methods, in their order, numbered."""
    parts = [frame[frame["method"].astype(str) == name] for name in methods]
    return pd.concat(parts, ignore_index=True).astype({"method": str})
