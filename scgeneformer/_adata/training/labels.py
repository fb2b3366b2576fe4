"""Labels of cells, as a classifier learns them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata.frames import read_obs
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS = 2  # of a class: one to train on, and one to be judged by
SUSPECT = {"", "nan", "none", "na", "n/a", "<na>"}  # text that often stands for a missing label


@dataclass(frozen=True, eq=False)
class Labels:
    """Class of every cell.

    Parameters
    ----------
    column
        The column of `obs`.
    codes
        Class of each cell, (n_obs,) int64, -1 for cells without a label.
    classes
        Names of the classes: in the order of the categories if they are ordered, else sorted.
    """

    column: str
    codes: np.ndarray
    classes: list[str]

    @property
    def sizes(self) -> np.ndarray:
        """Number of cells of each class, (n_classes,) int64."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.classes))


def find_labels(adata: AnnData, label: str) -> Labels:
    """Read a column of `obs` as classes; cells without a label belong to none.

    Parameters
    ----------
    adata
        The data.
    label
        Column of `obs`: text, categories, whole numbers or truth values, which are made text.

    Raises
    ------
    MissingKeyError
        If there is no such column.
    DataError
        If its values are no labels, all are missing, there is one class only, a class has too few cells, or two labels
        are the same once they are text.
    """
    column = read_obs(adata, [label], "label")[label]
    known = column.notna().to_numpy()
    if not known.any():
        raise DataError(f"All labels in adata.obs[{label!r}] are missing. Choose a column that has labels.")
    codes, values, ordered = _values(column[known], label)
    names = [as_text(value) for value in values]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"Two labels in adata.obs[{label!r}] are the same once they are text: {twice}. Rename one.")
    order = np.arange(len(names)) if ordered else np.argsort(np.array(names), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    of_cell = np.full(adata.n_obs, -1, dtype=np.int64)
    of_cell[known] = place[codes]
    found = Labels(label, of_cell, [names[i] for i in order])
    _check_classes(found)
    _say(found, adata.n_obs)
    return found


def _values(column: pd.Series, label: str) -> tuple[np.ndarray, list[Any], bool]:
    """Code of every cell, the values the codes stand for, and whether their order is meant."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories().cat
        return used.codes.to_numpy(dtype=np.int64), list(used.categories), bool(used.ordered)
    values = column.to_numpy(dtype=object)
    if bad := [value for value in values if not _is_label(value)]:
        is_number = isinstance(bad[0], float | np.floating)
        remedy = f"pd.cut(adata.obs[{label!r}], 3)" if is_number else f"adata.obs[{label!r}].astype(str)"
        raise DataError(
            f"adata.obs[{label!r}] holds {bad[0]!r}, which is no label (text, category, whole number or truth value). "
            f"{'Bin the numbers, or make them categorical' if is_number else 'Make it text'}: "
            f"adata.obs[{label!r}] = {remedy}."
        )
    codes, found = pd.factorize(pd.Series([(_kind(value), value) for value in values], dtype=object))
    return codes.astype(np.int64), [value for _, value in found], False


def _kind(value: Any) -> str:
    """What keeps True, 1 and "1" apart."""
    return "truth" if isinstance(value, bool | np.bool_) else "text" if isinstance(value, str) else "number"


def _is_label(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return float(value).is_integer()
    return isinstance(value, str | bool | np.bool_ | int | np.integer)


def as_text(value: Any) -> str:
    """A label as text; 2.0, as whole numbers beside missing ones are stored, is "2"."""
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def digest(adata: AnnData, numbers: np.ndarray) -> str:
    """SHA-256 of which cell has which number, whatever the order of the rows; a cell with a negative one has none."""
    lines = sorted(f"{name}\t{number}" for name, number in zip(adata.obs_names, numbers, strict=True) if number >= 0)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_classes(labels: Labels) -> None:
    where = f"adata.obs[{labels.column!r}]"
    if len(labels.classes) < 2:
        raise DataError(f"{where} has one class only, {labels.classes[0]!r}: there is nothing to tell apart.")
    few = [(name, n) for name, n in zip(labels.classes, labels.sizes, strict=True) if n < MIN_CELLS]
    if few:
        listed = ", ".join(f"{name!r} ({n})" for name, n in few[:10])
        listed += f" and {len(few) - 10} more" if len(few) > 10 else ""
        raise DataError(
            f"Classes of {where} with fewer than {MIN_CELLS} cells: {listed}. Merge them with another class, or set "
            "their labels to missing (NaN), so that these cells take no part."
        )


def _say(labels: Labels, n_obs: int) -> None:
    if n := int((labels.codes < 0).sum()):
        logg.info(f"    {n} of {n_obs} cells have no label in {labels.column}: they are in no part")
    if suspect := [name for name in labels.classes if name.strip().lower() in SUSPECT]:
        logg.warning(
            f"{labels.column} has classes named {suspect}, which look like missing labels. If they are, make them NaN."
        )
