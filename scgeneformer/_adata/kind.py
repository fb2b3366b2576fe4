"""What passes for an AnnData, and for one that can hold results."""

from __future__ import annotations

import os
from typing import Any

from anndata import AnnData

from scgeneformer._errors import DataError

SEVERAL = "adata = anndata.concat([anndata.experimental.read_lazy(path) for path in paths])"


def check_anndata(adata: Any) -> None:
    """Refuse what is no AnnData, with the way to make one of it.

    Raises
    ------
    DataError
        If it is something else, such as a path, or several files in an `AnnCollection`.
    """
    if isinstance(adata, AnnData):
        return
    remedy = ""
    if isinstance(adata, str | os.PathLike):
        remedy = f" Open the file: adata = anndata.read_h5ad({os.fspath(adata)!r}, backed='r')."
    elif isinstance(adata, list | tuple) or type(adata).__name__.startswith("AnnCollection"):
        remedy = f" Make one of the files, which stay on disk: {SEVERAL}."
    raise DataError(f"adata must be an AnnData, not {type(adata).__name__}.{remedy}")


def check_target(adata: Any) -> None:
    """Refuse what cannot hold results.

    Raises
    ------
    DataError
        If it is no AnnData, or a view of a backed one.
    """
    check_anndata(adata)
    if adata.isbacked and adata.is_view:
        raise DataError(
            "adata is a view of a backed AnnData, which can hold no results. Take its cells into memory: "
            "adata = adata.to_memory(); or into a file of their own: adata = adata.copy('cells.h5ad')."
        )
