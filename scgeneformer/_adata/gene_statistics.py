"""Gene statistics of one AnnData in one pass over its counts, wherever they are."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scgeneformer._adata.counts import Counts
from scgeneformer._adata.dask_chunks import RowChunks, compute, is_dask
from scgeneformer._adata.gene_names import GeneNames
from scgeneformer._engine.statistics.gene_statistics import GeneStatistics, merge_all
from scgeneformer._engine.statistics.gene_stream import GeneStream
from scgeneformer._engine.statistics.value_counts import BYTES_PER_VALUE
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import scipy.sparse as sp


@dataclass(frozen=True)
class Settings:
    """How statistics are taken.

    Parameters
    ----------
    target_sum
        Counts per cell after normalisation; None leaves them as they are.
    max_memory_gb
        Memory for all different values of all genes, in GB; beyond it they are rounded.
    """

    target_sum: float | None = 1e4
    max_memory_gb: float = 1.0

    def __post_init__(self) -> None:
        if self.target_sum is not None and not (_is_number(self.target_sum) and 0 < self.target_sum < float("inf")):
            raise DataError(f"target_sum={self.target_sum!r} must be a positive number, or None to leave the counts.")
        if not (_is_number(self.max_memory_gb) and 0 <= self.max_memory_gb < float("inf")):
            raise DataError(f"max_memory_gb={self.max_memory_gb!r} must be a number of at least 0.")

    @property
    def max_values(self) -> int:
        """Most different values that fit."""
        return int(self.max_memory_gb * 1e9 / BYTES_PER_VALUE)


def gene_statistics(
    counts: Counts, names: GeneNames, settings: Settings, advance: Callable[[int], object] = lambda n: None
) -> GeneStatistics:
    """Statistics of all genes with an ID over all cells.

    A dask array is reduced by dask, chunk of rows by chunk of rows, and the parts are merged as a tree; anything else
    is read block by block.

    Parameters
    ----------
    counts
        Where the counts are.
    names
        IDs and symbols of their columns.
    settings
        How statistics are taken.
    advance
        Told of numbers of cells that are done.
    """
    if is_dask(counts.matrix):
        return _by_dask(counts, names, settings, advance)
    return _of_blocks((_told(block, advance) for _, block in counts.blocks()), names, settings)


def _told(block: sp.csr_matrix, advance: Callable[[int], object]) -> sp.csr_matrix:
    advance(block.shape[0])
    return block


def _of_blocks(blocks: Iterable[sp.csr_matrix], names: GeneNames, settings: Settings) -> GeneStatistics:
    ids, symbols, gene_of_column = names.genes()
    stream = GeneStream(gene_of_column, len(ids), settings.target_sum, settings.max_values)
    for block in blocks:
        stream.add(block)
    return GeneStatistics.of_stream(stream, ids, symbols)


def _by_dask(counts: Counts, names: GeneNames, settings: Settings, advance: Callable[[int], object]) -> GeneStatistics:
    parts = RowChunks([counts.matrix]).map(_of_chunk, (counts.without_data(), names, settings))
    return compute(parts, advance, merge_all)[0]


def _of_chunk(shared: tuple[Counts, GeneNames, Settings], first: int, matrices: tuple[Any, ...]) -> GeneStatistics:
    """Statistics of the cells of one chunk, looked at in blocks."""
    counts, names, settings = shared
    return _of_blocks((block for _, block in counts.of_rows(*matrices).blocks()), names, settings)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
