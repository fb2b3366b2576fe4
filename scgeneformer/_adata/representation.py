"""Any cells × features matrix of an AnnData, read as dense blocks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scgeneformer._adata.counts import row_reader
from scgeneformer._errors import DataError, MissingKeyError, missing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class Representation:
    """One matrix of cells × features, opened for reading by rows.

    Parameters
    ----------
    name
        How a user would write it, such as ``adata.obsm['X_geneformer']``.
    n_obs, width
        Its shape.
    of_genes
        Whether the features are the genes of ``adata.var``.
    read
        Gives the rows from one number to another, as stored.
    """

    name: str
    n_obs: int
    width: int
    of_genes: bool
    read: Callable[[int, int], Any]

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, up to `rows` rows as dense float64) over all cells; NaN is let through."""
        for start in range(0, self.n_obs, rows):
            block = np.asarray(_dense(self.read(start, min(start + rows, self.n_obs))), dtype=np.float64)
            if np.isinf(block).any():
                row = start + int(np.isinf(block).any(axis=1).argmax())
                raise DataError(
                    f"{self.name} holds infinite values, first in row {row}. Replace them, or drop the cell."
                )
            yield start, block


def open_representation(adata: AnnData, use_rep: str) -> Representation:
    """Find a representation: "X", else a key of ``adata.obsm``, else one of ``adata.layers``.

    It may be an array, a sparse matrix or a data frame in memory, or one that reads rows when they are asked for: a
    backed `X`, an array or sparse matrix of an h5ad or zarr file, a dask array.

    Raises
    ------
    MissingKeyError
        If there is none of this name.
    DataError
        If it is no matrix of numbers, cells × features.
    """
    return _opened(adata, *_find(adata, use_rep))


def read_embedding(adata: AnnData, key: str) -> np.ndarray:
    """All rows of a matrix in ``adata.obsm``, dense, in the floating-point type they have, else float64.

    Raises as :func:`open_representation` does.
    """
    if key not in adata.obsm:
        raise missing_key("obsm", key, adata.obsm, "Run gf.tl.embed_cells(adata) first.")
    rows = _dense(_opened(adata, f"adata.obsm[{key!r}]", adata.obsm[key]).read(0, adata.n_obs))
    return rows if rows.dtype.kind == "f" else rows.astype(np.float64)


def _opened(adata: AnnData, name: str, matrix: Any) -> Representation:
    shape: tuple[int, ...] = tuple(getattr(matrix, "shape", ()))
    numeric = all(dtype.kind in "fiub" for dtype in _dtypes(matrix))
    if not numeric or len(shape) != 2 or not shape[1]:
        what = f"has the shape {shape}" if numeric else "holds no numbers"
        raise DataError(f"{name} {what}; a matrix of numbers, cells × features, is needed.")
    read = _frame_reader(matrix) if hasattr(matrix, "iloc") else row_reader(matrix)
    return Representation(name, adata.n_obs, shape[1], not name.startswith("adata.obsm"), read)


def _find(adata: AnnData, use_rep: str) -> tuple[str, Any]:
    """How a user would write it, and the matrix."""
    if use_rep == "X" and (matrix := adata.X) is not None:
        return "adata.X", matrix
    if use_rep in adata.obsm:
        return f"adata.obsm[{use_rep!r}]", adata.obsm[use_rep]
    if use_rep in adata.layers:
        return f"adata.layers[{use_rep!r}]", adata.layers[use_rep]
    there = [*(["X"] if adata.X is not None else []), *adata.obsm, *adata.layers]
    raise MissingKeyError(
        f"use_rep={use_rep!r} is neither in adata.obsm nor in adata.layers; the keys are: "
        f"{', '.join(map(repr, there)) or 'none'}. Run gf.tl.embed_cells(adata) first."
    )


def _dtypes(matrix: Any) -> list[Any]:
    """Data types of the values; those of each column of a data frame."""
    return [matrix.dtype] if hasattr(matrix, "dtype") else list(getattr(matrix, "dtypes", [np.dtype(object)]))


def _frame_reader(frame: Any) -> Callable[[int, int], Any]:
    return lambda start, stop: frame.iloc[start:stop].to_numpy(dtype=np.float64, na_value=np.nan)


def _dense(block: Any) -> np.ndarray:
    """Any kind of rows as an array."""
    if hasattr(block, "compute"):
        block = block.compute()
    return np.asarray(block.toarray() if sp.issparse(block) else block)
