"""Checksums of the counts of cells, by which stored tokens are told from those of other counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from scgeneformer._engine.masks import mix
from scgeneformer._engine.parallel import OPTIONS, over_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_matrix

_mix = nb.njit(**OPTIONS)(mix)


def checksums(counts: Sequence[csr_matrix]) -> np.ndarray:
    """Sum, modulo 2**64, of a hash of (column, value as float32) of every count of a cell.

    It depends neither on the order in which counts are stored nor on their type, nor on zeros that are.

    Parameters
    ----------
    counts
        At each time point, (n_cells, n_vars) CSR without duplicate entries.

    Returns
    -------
    (n_cells, n_times) uint64, 0 for cells without counts.
    """
    found = np.zeros((len(counts), counts[0].shape[0]), dtype=np.uint64)
    for one, sums in zip(counts, found, strict=True):
        bits = one.data.astype(np.float32, copy=False).view(np.uint32)
        over_cells(_sum_hashes, one.shape[0], bits, one.indices, one.indptr, sums)
    return np.ascontiguousarray(found.T)


@nb.njit(**OPTIONS)
def _sum_hashes(first, last, bits, indices, indptr, found):  # pragma: no cover  compiled
    for cell in range(first, last):
        total = np.uint64(0)
        for i in range(indptr[cell], indptr[cell + 1]):
            if bits[i]:
                total += _mix((np.uint64(indices[i]) << np.uint64(32)) | np.uint64(bits[i]))
        found[cell] = total
