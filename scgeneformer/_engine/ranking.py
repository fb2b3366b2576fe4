"""Rank-value encoding: the genes of a cell in descending order of count / median of the gene.

The reference (`TranscriptomeTokenizer`) orders the non-zero genes of a cell by
count / n_counts x 10,000 / median. Within one cell n_counts and 10,000 are constants, so count / median gives the
same order; one correctly rounded float64 division keeps values that are equal in exact arithmetic equal in the
computer, and those ties are broken by token.

The kernel sorts 64-bit keys, (coarse value, position in the row), by a stable radix sort of two 11-bit passes. The
coarse value is the value's float32 exponent, clamped to 64 octaves, and 16 bits of its mantissa, inverted so that
larger values come first. Rounding keeps the order except inside runs of equal coarse values, which are then put in
order by the float64 values and the tokens: the result is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numba as nb
import numpy as np

from scgeneformer._engine.parallel import CELLS_PER_TASK, OPTIONS, over_cells
from scgeneformer._engine.tokens import Tokens, around_genes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from scgeneformer._engine.vocabulary import Vocabulary

RADIX_BITS = 11
BUCKETS = 1 << RADIX_BITS
COARSE_MAX = BUCKETS * BUCKETS - 1  # 22 bits: 6 of exponent, 16 of mantissa
COARSE_ZERO = (127 - 20) << 16  # exponent and mantissa of 2**-20, below any count / median that occurs
LEAST = 2.0**-126  # normal float32; added to the values of counts, so that none of them is rounded to zero


@dataclass(frozen=True)
class RankValue:
    """The genes of a cell in descending order of count / median (Theodoris et al. 2023); the position is the rank."""

    name: ClassVar[str] = "rank-value"
    n_times: ClassVar[int] = 1
    context: ClassVar[dict[str, list[str]]] = {}
    n_positions: ClassVar[int | None] = None

    def encode(
        self,
        counts: csr_matrix,
        gene_tokens: np.ndarray,
        vocabulary: Vocabulary,
        previous: csr_matrix | None = None,
    ) -> tuple[Tokens, np.ndarray]:
        """See :func:`rank_value_encode`."""
        return rank_value_encode(counts, gene_tokens, vocabulary)


def rank_value_encode(counts: csr_matrix, gene_tokens: np.ndarray, vocabulary: Vocabulary) -> tuple[Tokens, np.ndarray]:
    """Encode cells as sequences of gene tokens in descending order of normalised value.

    Parameters
    ----------
    counts
        Counts (any non-negative scale that is constant within a cell), (n_cells, n_vars) CSR without duplicate
        entries. Explicit zeros are ignored.
    gene_tokens
        Token of each column, (n_vars,) int32; -1 where the model does not know the gene. No token may occur twice.
    vocabulary
        Gives the medians, the special tokens and the input size.

    Returns
    -------
    tokens
        One sequence per cell, truncated to the input size, special tokens included; cells with no known gene are
        empty (no special tokens either).
    n_genes
        Number of known genes with a count in each cell before truncation, (n_cells,) int32.
    """
    medians = np.where(gene_tokens >= 0, vocabulary.median_of_token[gene_tokens], np.nan)
    n_genes = count_known(counts, gene_tokens)
    kept = np.minimum(n_genes, vocabulary.max_genes)
    tokens = around_genes(kept, vocabulary)
    starts = tokens.offsets[:-1] + vocabulary.n_lead
    stored = counts.data, counts.indices, counts.indptr
    over_cells(_rank_rows, len(kept), *stored, gene_tokens, medians, starts, kept, n_genes, tokens.ids)
    return tokens, n_genes


def count_known(counts: csr_matrix, gene_tokens: np.ndarray) -> np.ndarray:
    """Number of genes with a count whose token is not -1 in each cell, (n_cells,) int32."""
    n_genes = np.zeros(counts.shape[0], dtype=np.int32)
    known = (gene_tokens >= 0).view(np.uint8)
    over_cells(_count_known, len(n_genes), counts.data, counts.indices, counts.indptr, known, n_genes)
    return n_genes


@nb.njit(**OPTIONS)
def _count_known(first, last, data, indices, indptr, known, n_genes):  # pragma: no cover  compiled
    for cell in range(first, last):
        n = np.int32(0)
        for i in range(indptr[cell], indptr[cell + 1]):
            n += np.int32(data[i] > 0) & known[np.uint32(indices[i])]
        n_genes[cell] = n


@nb.njit(**OPTIONS)
def _rank_rows(
    first, last, data, indices, indptr, gene_tokens, medians, starts, kept, n_genes, ids
):  # pragma: no cover  compiled
    low, high = np.empty(BUCKETS, np.int32), np.empty(BUCKETS, np.int32)
    for start in range(first, last, CELLS_PER_TASK):
        stop = min(last, start + CELLS_PER_TASK)
        size = n_genes[start:stop].max()
        keys, spare = np.empty(size, np.uint64), np.empty(size, np.uint64)
        values = np.empty((indptr[start + 1 : stop + 1] - indptr[start:stop]).max(), np.float32)
        bits = values.view(np.int32)
        for cell in range(start, stop):
            begin, n = indptr[cell], 0
            low[:] = 0
            high[:] = 0
            stored = indptr[cell + 1] - begin
            for i in range(stored):
                values[i] = data[begin + i] / medians[np.uint32(indices[begin + i])] + LEAST * (data[begin + i] > 0)
            for i in range(stored):
                if values[i] > 0:  # not for zeros, nor for unknown genes, whose median is NaN
                    coarse = COARSE_MAX - min(max((bits[i] >> 7) - COARSE_ZERO, 0), COARSE_MAX)
                    keys[n] = np.uint64((np.int64(coarse) << 32) | i)
                    low[coarse & (BUCKETS - 1)] += 1
                    high[coarse >> RADIX_BITS] += 1
                    n += 1
            _scatter(keys, spare, n, low, np.uint64(32))
            _scatter(spare, keys, n, high, np.uint64(32 + RADIX_BITS))
            _order_equal_keys(keys, n, data, indices, begin, gene_tokens, medians)
            out = starts[cell]
            for k in range(kept[cell]):
                ids[out + k] = gene_tokens[np.uint32(indices[begin + np.uint32(keys[k])])]


@nb.njit(**OPTIONS)
def _scatter(keys, out, n, counts, shift):  # pragma: no cover  compiled
    """One pass of the radix sort: stable counting sort by one digit, whose histogram is in `counts`."""
    total = 0
    for bucket in range(BUCKETS):
        count = counts[bucket]
        counts[bucket] = total
        total += count
    for k in range(n):
        bucket = (keys[k] >> shift) & np.uint64(BUCKETS - 1)
        out[counts[bucket]] = keys[k]
        counts[bucket] += 1


@nb.njit(**OPTIONS)
def _order_equal_keys(keys, n, data, indices, begin, gene_tokens, medians):  # pragma: no cover  compiled
    """Order each run of equal coarse values by (value descending, token ascending)."""
    start = 0
    for stop in range(1, n + 1):
        if stop < n and keys[stop] ^ keys[start] < np.uint64(1 << 32):
            continue
        if stop - start > 1:
            _shell_sort(keys, start, stop, data, indices, begin, gene_tokens, medians)
        start = stop


@nb.njit(**OPTIONS)
def _shell_sort(keys, start, stop, data, indices, begin, gene_tokens, medians):  # pragma: no cover  compiled
    gap = 1
    while gap < (stop - start) // 3:
        gap = 3 * gap + 1  # Knuth's gaps: short runs get an insertion sort, long runs stay fast
    while gap > 0:
        for k in range(start + gap, stop):
            key, j = keys[k], k
            while j >= start + gap and _precedes(key, keys[j - gap], data, indices, begin, gene_tokens, medians):
                keys[j] = keys[j - gap]
                j -= gap
            keys[j] = key
        gap //= 3


@nb.njit(inline="always", **OPTIONS)
def _precedes(a, b, data, indices, begin, gene_tokens, medians):  # pragma: no cover  compiled
    i, j = begin + np.uint32(a), begin + np.uint32(b)
    x, y = np.float64(data[i]) / medians[indices[i]], np.float64(data[j]) / medians[indices[j]]
    return x > y or (x == y and gene_tokens[indices[i]] < gene_tokens[indices[j]])
