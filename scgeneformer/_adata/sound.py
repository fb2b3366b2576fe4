"""Sparse matrices that hold what they say."""

from __future__ import annotations

from typing import Any

from scgeneformer._errors import DataError


def sound(matrix: Any) -> Any:
    """A CSR or CSC matrix whose indices fit its shape; scipy and the kernels trust them, and read beyond their arrays.

    It shares its arrays with the one that is given, which is left as it is.

    Raises
    ------
    DataError
        If an index is negative or beyond the shape, or rows (columns of CSC) end before they begin.
    """
    try:
        same = type(matrix)((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        same.check_format(full_check=True)
    except ValueError as error:
        raise DataError(
            f"A sparse matrix of {matrix.shape[0]:,} cells and {matrix.shape[1]:,} genes is damaged: {error}. Make it "
            "anew, or take it from a whole copy of the file."
        ) from error
    return same


def rows_of(matrix: Any) -> Any:
    """A sparse matrix in memory by rows (CSR); one that is so already as it is."""
    return (sound(matrix) if matrix.format == "csc" else matrix).tocsr()
