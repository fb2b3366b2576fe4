"""Columns of `obs` as Arrow columns, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence


def to_arrow(column: pd.Series) -> Any:
    """A column of `obs` as an Arrow array of text, numbers, truth values or times; None if it is of another kind."""
    import pyarrow as pa

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype if not column.isna().any() else object)
    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return array if is_scalar(array.type) else None


def is_scalar(kind: Any) -> bool:
    """Whether a cell has one value of this Arrow type: text, number, truth value or time."""
    import pyarrow.types as t

    tests = (t.is_integer, t.is_floating, t.is_boolean, t.is_string, t.is_large_string, t.is_temporal)
    return any(test(kind.value_type if t.is_dictionary(kind) else kind) for test in tests)


def from_arrow(column: Any, names: Sequence[str] = ()) -> np.ndarray | pd.api.extensions.ExtensionArray:
    """An Arrow column as `obs` stores it.

    Parameters
    ----------
    column
        ChunkedArray of one value per cell.
    names
        Names of the classes, if the values are their numbers (-1: none).

    Returns
    -------
    Categories where text repeats or is missing, and for classes; numbers and truth values, with NaN or as nullable
    values where they are missing; times as text.
    """
    import pyarrow as pa
    import pyarrow.types as t

    if len(names):
        codes: np.ndarray = column.cast("int64").fill_null(-1).to_numpy()
        return pd.Categorical.from_codes(codes, pd.Index(names))
    if t.is_temporal(column.type):
        column = column.cast(pa.string())
    if t.is_boolean(column.type) and column.null_count:
        return column.to_pandas().astype("boolean").array
    if t.is_boolean(column.type) or t.is_integer(column.type) or t.is_floating(column.type):
        return column.to_pandas().to_numpy()
    if not t.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = column.to_pandas().array.remove_unused_categories()
    if len(values.categories) == len(values):
        return np.asarray(values, dtype=object)
    return values.reorder_categories(sorted(values.categories), ordered=False)
