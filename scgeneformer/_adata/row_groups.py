"""Rows of matrices of which many have to be read at once: chunks of dask arrays, and sparse matrices by columns."""

from __future__ import annotations

import tempfile
import threading
import weakref
from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scanpy import logging as logg

from scgeneformer._adata.disk.damage import place_of, told_if_damaged
from scgeneformer._adata.sound import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP_BYTES = 128 * 2**20  # of the columns, and of the rows, of a large matrix that are in memory at once


def by_groups(edges: list[int], group: Callable[[int], Any]) -> Callable[[int, int], Any]:
    """Function that gives the rows from one number to another.

    Parameters
    ----------
    edges
        First row of each group, and the number of all rows.
    group
        Gives the rows of the group of this number, dense or CSR. The last one is kept: each is asked for once if rows
        are read in order.
    """
    kept = lru_cache(maxsize=1)(group)

    def read(start: int, stop: int) -> Any:
        first = min(bisect_right(edges, start), len(edges) - 1) - 1
        last = max(bisect_left(edges, min(stop, edges[-1])), first + 1)
        pieces = [kept(i)[max(start - edges[i], 0) : max(stop - edges[i], 0)] for i in range(first, last)]
        return sp.vstack(pieces, format="csr") if sp.issparse(pieces[0]) else np.concatenate(pieces)

    return read


def dask_rows(array: Any) -> Callable[[int, int], Any]:
    """Reader of a dask array; every chunk is computed once."""
    edges = np.append(0, np.cumsum(array.chunks[0])).tolist()

    def chunk(number: int) -> Any:
        rows = array[edges[number] : edges[number + 1]].compute()
        return rows_of(rows) if sp.issparse(rows) else np.asarray(rows)

    return by_groups(edges, chunk)


def csc_rows(matrix: Any) -> Callable[[int, int], Any]:
    """Reader of a sparse matrix on disk that is stored by columns (CSC), in h5ad or zarr.

    A small one is read as a whole. A large one is read once, into a temporary file of groups of rows.
    """
    with told_if_damaged(place := place_of(matrix)):
        starts = np.asarray(matrix.group["indptr"][:], dtype=np.int64)
    n_bytes = int(starts[-1]) * (matrix.dtype.itemsize + 4)
    n_groups = -(-n_bytes // GROUP_BYTES)
    if n_groups <= 1:
        with told_if_damaged(place):
            columns = matrix.to_memory()
        rows = rows_of(columns)
        return lambda start, stop: rows[start:stop]
    logg.info(
        f"    {matrix.group.name} is stored by columns (CSC): turned into rows in a temporary file of "
        f"{n_bytes / 1e9:.1f} GB in {tempfile.gettempdir()}; CSR is read without this"
    )
    edges = np.linspace(0, matrix.shape[0], min(n_groups, matrix.shape[0]) + 1).astype(int).tolist()
    return by_groups(edges, _Transposed(matrix, starts, edges).rows)


class _Transposed:
    """A CSC matrix on disk, cut into groups of rows in a temporary file.

    Some columns at a time are read and cut into pieces, one for each group.

    Parameters
    ----------
    matrix
        Of anndata.
    starts
        Where its columns start, (n_columns + 1,).
    edges
        First row of each group, and the number of all rows.
    """

    def __init__(self, matrix: Any, starts: np.ndarray, edges: list[int]) -> None:
        self._n_columns: list[int] = []
        self._places: list[list[int]] = [[] for _ in edges[1:]]  # in the file, of the pieces of each group
        self._edges, self._lock = edges, threading.Lock()
        self._file = tempfile.TemporaryFile(prefix="scgeneformer-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        for begin, end in pairwise(_cuts(starts, GROUP_BYTES // (matrix.dtype.itemsize + 4))):
            some = slice(starts[begin], starts[end])
            with told_if_damaged(place_of(matrix)):
                data, indices = matrix.group["data"][some], matrix.group["indices"][some]
            arrays = data, indices, starts[begin : end + 1] - starts[begin]
            columns = rows_of(sp.csc_matrix(arrays, shape=(edges[-1], end - begin)))
            self._n_columns.append(end - begin)
            for places, (first, last) in zip(self._places, pairwise(edges), strict=True):
                piece = columns[first:last].tocsc()
                places.append(self._file.tell())
                for array in (piece.data, piece.indices, piece.indptr):
                    np.save(self._file, array, allow_pickle=False)

    def rows(self, number: int) -> sp.csr_matrix:
        """The rows of a group."""
        n_rows = self._edges[number + 1] - self._edges[number]
        with self._lock:
            pieces = [
                sp.csc_matrix(self._load(place), shape=(n_rows, n_columns))
                for place, n_columns in zip(self._places[number], self._n_columns, strict=True)
            ]
        return sp.hstack(pieces, format="csc").tocsr()

    def _load(self, place: int) -> tuple[np.ndarray, ...]:
        self._file.seek(place)
        return tuple(np.load(self._file, allow_pickle=False) for _ in range(3))


def _cuts(starts: np.ndarray, most: int) -> list[int]:
    """First columns of parts with at most so many values each, or one column, and the number of columns."""
    cuts = [0]
    while cuts[-1] < len(starts) - 1:
        fitting = int(np.searchsorted(starts, starts[cuts[-1]] + most, side="right")) - 1
        cuts.append(max(fitting, cuts[-1] + 1))
    return cuts
