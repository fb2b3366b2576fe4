"""Value bins: the genes of a cell in any order, each with the bin of its value (scGPT, Cui et al. 2024).

The non-zero values of a cell are divided at their own quantiles into ``n_bins - 1`` bins, 1 and up; bin 0 is the value
zero. scGPT (`binning` in its preprocess.py) may do so after dividing by the total of the cell and log1p, but neither
changes which quantiles a value lies between: only the order of the values, as float32 like theirs, matters. Of n values
in order, numbered from 0, there are ``m = n_bins - 1`` quantiles, at ``j (n - 1) / (m - 1)`` for j = 0 ... m - 1,
interpolated between neighbors. For a value x, than which `below` values are smaller and `upto` values are not larger,

- ``first = ceil(below (m - 1) / (n - 1)) + 1``: one more than the quantiles below x,
- ``last = floor((upto - 1) (m - 1) / (n - 1)) + 1``: the quantiles up to x.

If at most one quantile is x, its bin is `last`. Where several are, as where many genes have the same count, scGPT draws
the bin of every gene at random from `first` to `last` (``side="both"`` of its `_digitize`). Here it is the middle of
them, the mean of those draws rounded up to a whole bin: equal values are in one bin, and a cell is the same each time.

Where the encoding has a `context`, columns of `obs` such as the batch, a cell has a token for each of them behind
``<cls>``, which says the value of the column; ``<mask>`` says that it is unknown. scGPT adds the embedding of a batch
behind its encoder; in front of it, as tokens (the condition tokens of its paper), the blocks can use what they say.

The position of a token is its bin, so that the position embeddings of a BERT are embeddings of bins, and nothing else
of the model has to be changed: gene embedding + bin embedding. The position `n_bins` is that of special tokens,
`n_bins + 1` that of a value which is masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numba as nb
import numpy as np

from scgeneformer._engine.parallel import CELLS_PER_TASK, OPTIONS, over_cells
from scgeneformer._engine.ranking import count_known
from scgeneformer._engine.tokens import Tokens, around_genes
from scgeneformer._errors import ModelError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from scgeneformer._engine.vocabulary import Vocabulary

MOST_BINS = 2**16 - 2  # positions are stored as uint16


@dataclass(frozen=True)
class ValueBinned:
    """The genes of a cell, each with the bin of its value as position (Cui et al. 2024).

    Parameters
    ----------
    n_bins
        Bins, that of the value zero included.
    zeros
        Whether genes of the data that have no count in the cell are read as well, in bin 0.
    context
        Column of `obs`, such as "batch" -> its values; the model is told that of each cell in a token of its own.

    Raises
    ------
    ModelError
        If there are less than three bins or more than 65,534, or a column of the context has no values, or one twice.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> statistics = gf.models.gene_statistics(gf.datasets.pbmc68k())
    >>> vocabulary = gf.models.build_vocabulary(statistics, encoding=gf.models.ValueBinned(n_bins=11))
    >>> vocabulary.encoding
    ValueBinned(n_bins=11, zeros=False, context={})
    """

    name: ClassVar[str] = "value-binned"
    n_times: ClassVar[int] = 1

    n_bins: int = 51
    zeros: bool = False
    context: dict[str, list[str]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        whole = isinstance(self.n_bins, int) and not isinstance(self.n_bins, bool)
        if not whole or not 3 <= self.n_bins <= MOST_BINS:
            raise ModelError(f"n_bins={self.n_bins!r} must be a whole number from 3 to {MOST_BINS:,}.")
        if not isinstance(self.zeros, bool):
            raise ModelError(f"zeros={self.zeros!r} must be True or False.")
        for column, values in self.context.items():
            if isinstance(values, str) or not len(values) or len({str(value) for value in values}) < len(values):
                raise ModelError(f"context={{{column!r}: ...}} must list the values of the column, each once.")
        lists = {str(column): [str(value) for value in values] for column, values in self.context.items()}
        object.__setattr__(self, "context", lists)

    @property
    def n_positions(self) -> int:
        """Positions: the bins, that of special tokens, and that of masked values."""
        return self.n_bins + 2

    @property
    def special_position(self) -> int:
        """Position of special tokens."""
        return self.n_bins

    @property
    def mask_position(self) -> int:
        """Position of a gene whose value is masked."""
        return self.n_bins + 1

    def encode(
        self,
        counts: csr_matrix,
        gene_tokens: np.ndarray,
        vocabulary: Vocabulary,
        previous: csr_matrix | None = None,
    ) -> tuple[Tokens, np.ndarray]:
        """Genes in descending order of value, ties by token, zeros behind all; positions are their bins.

        The order means nothing to the model. If not all fit, those with the highest values stay, where scGPT draws some
        at random; the bins are those among all genes of the cell that the model knows. Medians are not used.

        Parameters
        ----------
        counts, gene_tokens, vocabulary
            As in :func:`ranking.rank_value_encode`.
        previous
            Not used.

        Returns
        -------
        tokens
            One sequence per cell, special tokens included, with positions uint8 (uint16 from 255 bins on); cells
            without a count of a known gene are empty.
        n_genes
            Known genes with a count in each cell, (n_cells,) int32.
        """
        n_genes = count_known(counts, gene_tokens)
        known = np.sort(gene_tokens[gene_tokens >= 0])
        fit = np.minimum(len(known) if self.zeros else n_genes, vocabulary.max_genes)
        kept = np.where(n_genes > 0, fit, 0).astype(np.int32)  # always: the kernel is compiled once
        tokens = around_genes(kept, vocabulary)
        ids, starts = tokens.ids, tokens.offsets[:-1] + vocabulary.n_lead
        positions = np.full(len(ids), self.special_position, np.uint8 if self.n_positions <= 2**8 else np.uint16)
        stored = counts.data, counts.indices, counts.indptr
        to = starts, kept, ids, positions
        over_cells(
            _bin_rows, len(kept), *stored, gene_tokens, known, vocabulary.n_tokens, n_genes, self.n_bins - 1, *to
        )
        return Tokens(ids, tokens.offsets, positions), n_genes


@nb.njit(**OPTIONS)
def _bin_rows(
    first, last, data, indices, indptr, gene_tokens, known, n_tokens, n_genes, m, starts, kept, ids, positions
):  # pragma: no cover  compiled
    """Put tokens and bins of each cell in their places.

    A cell is sorted by 64-bit keys: the bits of the value as float32, inverted so that larger ones come first, and the
    token.
    """
    for begin in range(first, last, CELLS_PER_TASK):
        end = min(last, begin + CELLS_PER_TASK)
        scratch = np.empty(n_genes[begin:end].max(), np.uint64)
        value, there = np.empty(1, np.float32), np.zeros(n_tokens, np.bool_)
        bits = value.view(np.uint32)
        for cell in range(begin, end):
            n, out = 0, starts[cell]
            for i in range(indptr[cell], indptr[cell + 1]):
                token = gene_tokens[indices[i]]
                if token >= 0 and data[i] > 0:
                    value[0] = data[i]
                    scratch[n] = (np.uint64(~bits[0]) & np.uint64(0xFFFFFFFF)) << np.uint64(32) | np.uint64(token)
                    n += 1
            keys = scratch[:n]
            keys.sort()
            start = 0
            while start < min(n, kept[cell]):
                stop = start + 1
                while stop < n and keys[stop] ^ keys[start] < np.uint64(1 << 32):
                    stop += 1
                bin_ = _middle_bin(n - stop, n - start, n, m)
                for k in range(start, min(stop, kept[cell])):
                    ids[out + k] = keys[k] & np.uint64(0xFFFFFFFF)
                    positions[out + k] = bin_
                start = stop
            if kept[cell] > n:  # room for genes without a count
                for k in range(n):
                    there[ids[out + k]] = True
                k, place = n, 0
                while k < kept[cell]:
                    if not there[known[place]]:
                        ids[out + k] = known[place]
                        positions[out + k] = 0
                        k += 1
                    place += 1
                for k in range(n):
                    there[ids[out + k]] = False


@nb.njit(**OPTIONS)
def _middle_bin(below, upto, n, m):  # pragma: no cover  compiled
    """Bin of a value, see the module."""
    if n == 1:
        return (m + 2) // 2  # all quantiles are this value: the middle of 1 ... m
    last = (upto - 1) * (m - 1) // (n - 1) + 1
    first = min((below * (m - 1) + n - 2) // (n - 1) + 1, last)
    return (first + last + 1) // 2
