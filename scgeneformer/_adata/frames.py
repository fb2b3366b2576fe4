"""Columns of `obs` and `var`, also of an AnnData that was opened lazily and has them in an xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pandas.api.types import is_numeric_dtype
from scanpy import logging as logg

from scgeneformer._adata.kind import check_anndata
from scgeneformer._errors import MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

MANY, FEW_CELLS = 20, 10  # numbers of which there are more, each in fewer cells, are no labels


def in_memory(frame: Any, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Some columns of a frame, or all, as pandas; no others are read from disk."""
    some = frame if columns is None else frame[list(columns)]
    return some.to_memory() if _is_lazy(some) else some


def read_obs(adata: AnnData, columns: Sequence[Any], asked: str) -> pd.DataFrame:
    """Columns of `obs`, at least one.

    Parameters
    ----------
    adata
        The data.
    columns
        Their names.
    asked
        Name of the parameter by which the user gave them, for the error.

    Raises
    ------
    MissingKeyError
        If one of them does not exist, or none is named.
    DataError
        If there is no AnnData to look in.
    """
    check_anndata(adata)
    missing = [name for name in columns if not isinstance(name, str) or name not in adata.obs]
    if missing or not columns:
        named = ", ".join(map(repr, missing)) if columns else "[]"
        present = ", ".join(map(repr, adata.obs)) or "none"
        raise MissingKeyError(f"{asked}={named} is no column of adata.obs; the columns are: {present}.")
    found = in_memory(adata.obs, columns)
    for name, column in found.items():
        if is_numeric_dtype(column) and (n := column.nunique()) > MANY and n * FEW_CELLS > len(column):
            logg.warning(
                f"adata.obs[{name!r}] ({n:,} values in {len(column):,} cells) looks like a number, not a label."
            )
    return found


def drop(frame: Any, column: str) -> None:
    """Remove a column."""
    del (frame.ds if _is_lazy(frame) else frame)[column]


def _is_lazy(frame: Any) -> bool:
    return hasattr(type(frame), "to_memory")
