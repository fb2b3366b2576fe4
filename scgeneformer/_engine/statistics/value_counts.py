"""All positive values of many genes, sorted, equal ones counted once: medians from it do not depend on any order.

A value of a gene is one 64-bit key, the gene in the upper half and the bits of the float32 in the lower; positive
floats are ordered like their bits, so that sorting the keys sorts by gene, then by value. Two collections merge as two
sorted lists do, whose counts of equal keys are added up.

Once there are too many different values, they are rounded to 9 significant bits, for good: a value moves by at most
1/512 of itself, and so does a median; between x and 2x there are 256 values left. Bits are cut off, which can be done
before or after any merging. Whether it is done depends on the number of different values alone, which never falls as
values are added. All in all the same values give the same bits in whatever order, in whatever parts and by however many
workers they come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba as nb
import numpy as np

SHIFT = np.uint64(32)  # of the gene
CUT = 15  # of the 23 bits behind the point of a float32, these are cut; 8 and the one before the point stay
BYTES_PER_VALUE = 40  # key and count, twice while collections are merged, and what is gathered before
GATHERED = 2**23  # keys that are sorted at once


@dataclass(eq=False)
class ValueCounts:
    """How often each gene has each value.

    Parameters
    ----------
    max_values
        Most different values that are kept as they are; if there are more, all are rounded.
    keys
        Gene and value, (n,) uint64, ascending.
    counts
        How often, (n,) int64.
    exact
        Whether the values are as they came, not rounded.
    """

    max_values: int
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    counts: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    exact: bool = True
    _gathered: list[np.ndarray] = field(default_factory=list)
    _n_gathered: int = 0

    def add(self, keys: np.ndarray) -> None:
        """Add values, as keys in any order; they are looked at later, many at once."""
        self._gathered.append(keys)
        self._n_gathered += len(keys)
        if self._n_gathered >= GATHERED:
            self.settle()

    def settle(self) -> None:
        """Put what was gathered in order."""
        if not self._gathered:
            return
        keys = np.concatenate(self._gathered)
        self._gathered, self._n_gathered = [], 0
        keys.sort()
        self._merge(ValueCounts(self.max_values, *_count_runs(keys, np.ones(0, dtype=np.int64))))

    def merged(self, other: ValueCounts) -> ValueCounts:
        """A new collection with the values of both; both must be settled."""
        both = ValueCounts(min(self.max_values, other.max_values), self.keys, self.counts, self.exact)
        both._merge(other)
        return both

    def renumbered(self, gene_of_gene: np.ndarray) -> ValueCounts:
        """The same values of genes with other, likewise ascending, numbers."""
        genes = gene_of_gene.astype(np.uint64)[self.keys >> SHIFT]
        keys = (genes << SHIFT) | (self.keys & np.uint64(0xFFFFFFFF))
        return ValueCounts(self.max_values, keys, self.counts, self.exact)

    def medians(self, n_genes: int) -> np.ndarray:
        """Median of each gene, the mean of the middle two values where their number is even; NaN without values."""
        bounds = np.searchsorted(self.keys, np.arange(n_genes + 1, dtype=np.uint64) << SHIFT)
        lower, upper = _middle_two(self.keys, self.counts, bounds)
        return (lower.view(np.float32).astype(np.float64) + upper.view(np.float32).astype(np.float64)) / 2

    def _merge(self, other: ValueCounts) -> None:
        if self.exact != other.exact:
            self._round()
            other = ValueCounts(self.max_values, other.keys, other.counts, other.exact)
            other._round()
        self.keys, self.counts = _merge_sorted(self.keys, self.counts, other.keys, other.counts)
        if len(self.keys) > self.max_values:
            self._round()

    def _round(self) -> None:
        if self.exact:
            self.exact = False
            self.keys, self.counts = _count_runs(rounded(self.keys), self.counts)


def rounded(keys: np.ndarray) -> np.ndarray:
    """Keys whose values are in the middle of those that agree in 9 significant bits."""
    return (keys & ~np.uint64((1 << CUT) - 1)) | np.uint64(1 << (CUT - 1))


@nb.njit(cache=True, nogil=True)
def _count_runs(keys, counts):  # pragma: no cover  compiled
    """Sorted keys, each once, and the sum of their counts; no counts stand for ones."""
    n = 0
    for i in range(len(keys)):
        n += i == 0 or keys[i] != keys[i - 1]
    once, total = np.empty(n, np.uint64), np.zeros(n, np.int64)
    n = -1
    for i in range(len(keys)):
        if i == 0 or keys[i] != keys[i - 1]:
            n += 1
            once[n] = keys[i]
        total[n] += counts[i] if len(counts) else 1
    return once, total


@nb.njit(cache=True, nogil=True)
def _merge_sorted(a, a_counts, b, b_counts):  # pragma: no cover  compiled
    keys, counts = np.empty(len(a) + len(b), np.uint64), np.empty(len(a) + len(b), np.int64)
    i = j = n = 0
    while i < len(a) or j < len(b):
        if j == len(b) or (i < len(a) and a[i] < b[j]):
            keys[n], counts[n] = a[i], a_counts[i]
            i += 1
        elif i == len(a) or b[j] < a[i]:
            keys[n], counts[n] = b[j], b_counts[j]
            j += 1
        else:
            keys[n], counts[n] = a[i], a_counts[i] + b_counts[j]
            i += 1
            j += 1
        n += 1
    return keys[:n].copy(), counts[:n].copy()


@nb.njit(cache=True, nogil=True)
def _middle_two(keys, counts, bounds):  # pragma: no cover  compiled
    """Bits of the values in the middle of each gene; those of NaN for genes without values."""
    n_genes = len(bounds) - 1
    lower = np.full(n_genes, 0x7FC00000, np.uint32)
    upper = lower.copy()
    for gene in range(n_genes):
        total = counts[bounds[gene] : bounds[gene + 1]].sum()
        below = 0
        for i in range(bounds[gene], bounds[gene + 1]):
            if below <= (total - 1) // 2 < below + counts[i]:
                lower[gene] = np.uint32(keys[i] & np.uint64(0xFFFFFFFF))
            if below <= total // 2 < below + counts[i]:
                upper[gene] = np.uint32(keys[i] & np.uint64(0xFFFFFFFF))
                break
            below += counts[i]
    return lower, upper
