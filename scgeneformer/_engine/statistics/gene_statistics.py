"""Statistics of every gene of a corpus, in a form that merges: other files, other workers."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._engine.statistics.gene_stream import GeneStream, merge_moments
from scgeneformer._engine.statistics.value_counts import ValueCounts
from scgeneformer._errors import DataError
from scgeneformer._foreign import stored_members
from scgeneformer._publish import published

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

PER_GENE = ("gene_ids", "symbols", "n_cells", "n_detected", "mean", "squares")
FORMAT = "scgeneformer gene statistics 1"
DAMAGES = (  # what numpy raises about files that are none of ours
    *(OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, MemoryError, SyntaxError),
    zipfile.BadZipFile,
)


@dataclass(frozen=True, eq=False, repr=False)
class GeneStatistics:
    """Median, mean and variance of every gene of a corpus, and what they are made of.

    Made by :func:`scgeneformer.models.gene_statistics`; never changed in place. The same cells give the same medians,
    bit for bit, in whatever order and in whatever parts they come; means and variances agree but for rounding.

    Parameters
    ----------
    gene_ids
        IDs, (n_genes,) str, ascending, each once; upper case, Ensembl IDs without version.
    symbols
        Symbols, (n_genes,) str, empty where none is known.
    total_cells
        Number of cells.
    n_cells
        Cells of the data that have the gene, with a count or without, (n_genes,) int64. Less than `total_cells` where
        some files lack the gene.
    n_detected
        Cells with a count of the gene, (n_genes,) int64.
    mean
        Mean over `n_cells`, (n_genes,) float64, in counts per `target_sum`.
    squares
        Sum of the squared distances from it, (n_genes,) float64.
    values
        All values above zero.
    target_sum
        Counts per cell after normalisation; None if the counts were left as they were.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> one, other = (gf.models.gene_statistics(part) for part in (adata[:300], adata[300:]))
    >>> one.merge(other)
    GeneStatistics: 765 genes in 700 cells, 10,000 counts per cell, exact medians
    """

    gene_ids: np.ndarray
    symbols: np.ndarray
    total_cells: int
    n_cells: np.ndarray
    n_detected: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    values: ValueCounts
    target_sum: float | None

    def __post_init__(self) -> None:
        ids = self.gene_ids.tolist()
        if "" in ids or any(one >= two for one, two in pairwise(ids)):
            raise DataError("gene_ids must be ascending, each once and none empty; give each gene an ID of its own.")

    @classmethod
    def of_stream(cls, stream: GeneStream, gene_ids: np.ndarray, symbols: np.ndarray) -> GeneStatistics:
        """What a stream has found of genes with these IDs, in ascending order."""
        stream.values.settle()
        return cls(
            gene_ids=gene_ids,
            symbols=symbols,
            total_cells=stream.n_cells,
            n_cells=np.full(len(gene_ids), stream.n_cells, dtype=np.int64),
            n_detected=stream.n_detected,
            mean=stream.mean,
            squares=stream.squares,
            values=stream.values,
            target_sum=None if np.isnan(stream.target_sum) else stream.target_sum,
        )

    @property
    def exact(self) -> bool:
        """Whether the medians are exact, to the 7 digits of float32; else they are off by less than 0.2 %."""
        return self.values.exact

    @cached_property
    def median(self) -> np.ndarray:
        """Median over the cells with a count, (n_genes,) float64; NaN for genes without one."""
        return self.values.medians(len(self.gene_ids))

    @property
    def variance(self) -> np.ndarray:
        """Variance over `n_cells` (``ddof=0``), (n_genes,) float64."""
        return self.squares / np.maximum(self.n_cells, 1)

    @property
    def std(self) -> np.ndarray:
        """Square root of `variance`."""
        return np.sqrt(self.variance)

    @property
    def detection(self) -> np.ndarray:
        """Share of `n_cells` with a count, (n_genes,) float64."""
        return self.n_detected / np.maximum(self.n_cells, 1)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the IDs, numbers of cells, medians and the target sum; no order of cells or files shows in it."""
        digest = hashlib.sha256(f"{self.target_sum}:{self.total_cells}\n".encode())
        digest.update("\n".join(self.gene_ids.tolist()).encode())
        for array in (self.n_cells, self.n_detected, self.median):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def merge(self, other: GeneStatistics) -> GeneStatistics:
        """Statistics of the cells of both together; genes that only one of them has are kept.

        Parameters
        ----------
        other
            Of other cells, with the same `target_sum`.

        Returns
        -------
        New statistics; both stay as they are.

        Raises
        ------
        DataError
            If they refer to different target sums.
        """
        if self.target_sum != other.target_sum:
            raise DataError(
                f"The statistics refer to target_sum={self.target_sum} and target_sum={other.target_sum}, which cannot "
                "be merged. Take both with the same one."
            )
        genes = _genes_of_both(self.gene_ids, other.gene_ids)
        one, two = self._spread(genes), other._spread(genes)
        mean, squares = merge_moments(one.n_cells, one.mean, one.squares, two.n_cells, two.mean, two.squares)
        return GeneStatistics(
            gene_ids=genes,
            symbols=_first_of_both(one.symbols, two.symbols),
            total_cells=one.total_cells + two.total_cells,
            n_cells=one.n_cells + two.n_cells,
            n_detected=one.n_detected + two.n_detected,
            mean=mean,
            squares=squares,
            values=one.values.merged(two.values),
            target_sum=self.target_sum,
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per gene: symbol, n_cells, n_detected, detection, median, mean, variance, std."""
        columns = ("symbols", "n_cells", "n_detected", "detection", "median", "mean", "variance", "std")
        index = pd.Index(self.gene_ids, dtype=object, name="gene_id")
        frame = pd.DataFrame({name: getattr(self, name) for name in columns}, index=index)
        return frame.rename(columns={"symbols": "symbol"})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write them to a file (npz, no pickle in it), all of it or nothing; an existing one is replaced.

        Parameters
        ----------
        path
            Where to; any suffix.

        Returns
        -------
        The path.
        """
        target = Path(path).expanduser()
        with published(target) as fresh, open(fresh, "wb") as file:
            np.savez(file, **self._arrays())
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GeneStatistics:
        """Read a file that :meth:`save` wrote.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        The statistics.

        Raises
        ------
        FileNotFoundError
            If there is none.
        DataError
            If it is something else, or damaged.
        """
        try:
            with open(Path(path).expanduser(), "rb") as opened:
                stored_members(opened)
                opened.seek(0)
                with np.load(opened, allow_pickle=False) as file:
                    found = {name: file[name] for name in file.files}
            if str(found.pop("format")) != FORMAT:
                raise ValueError("made by another version")
            target_sum = float(found.pop("target_sum"))
            values = ValueCounts(int(found.pop("max_values")), found.pop("keys"), found.pop("counts"))
            values.exact = bool(found.pop("exact"))
            return cls(
                values=values,
                target_sum=None if np.isnan(target_sum) else target_sum,
                total_cells=int(found.pop("total_cells")),
                **found,
            )
        except FileNotFoundError:
            raise
        except DAMAGES as error:
            raise DataError(
                f"{path} holds no gene statistics that can be read: {error}. It must be a file that "
                "GeneStatistics.save wrote, whole."
            ) from error

    def __repr__(self) -> str:
        scale = "counts as they are" if self.target_sum is None else f"{self.target_sum:,g} counts per cell"
        exact = "exact" if self.exact else "rounded"
        return f"GeneStatistics: {len(self.gene_ids):,} genes in {self.total_cells:,} cells, {scale}, {exact} medians"

    def _arrays(self) -> dict[str, Any]:
        return {
            "format": np.array(FORMAT),
            "target_sum": np.array(np.nan if self.target_sum is None else self.target_sum),
            "max_values": np.array(self.values.max_values),
            "exact": np.array(self.values.exact),
            "keys": self.values.keys,
            "counts": self.values.counts,
            "total_cells": np.array(self.total_cells),
            **{name: getattr(self, name) for name in PER_GENE},
        }

    def _spread(self, genes: np.ndarray) -> GeneStatistics:
        """The same among more genes, in ascending order, of which the others have no cell."""
        if np.array_equal(genes, self.gene_ids):
            return self
        place = np.searchsorted(genes, self.gene_ids)

        def spread(values: np.ndarray) -> np.ndarray:
            out = np.zeros(len(genes), dtype=values.dtype)
            out[place] = values
            return out

        arrays: dict[str, Any] = {name: spread(getattr(self, name)) for name in PER_GENE}
        return replace(self, **{**arrays, "gene_ids": genes}, values=self.values.renumbered(place))


def merge_all(statistics: Sequence[GeneStatistics]) -> GeneStatistics:
    """Statistics of the cells of all together."""
    merged = statistics[0]
    for one in statistics[1:]:
        merged = merged.merge(one)
    return merged


def _first_of_both(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Of two symbols the first in the alphabet, of one and nothing the one: whichever of the data come first."""
    if np.array_equal(one, two):
        return one
    pairs = zip(one.tolist(), two.tolist(), strict=True)
    return np.array([min(filter(None, pair), default="") for pair in pairs], dtype=str)


def _genes_of_both(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """IDs of either, ascending; says so if they share none."""
    if np.array_equal(one, two):
        return one
    both = np.union1d(one, two)
    if len(one) and len(two) and len(both) == len(one) + len(two):
        logg.warning(
            f"no gene is in both of the data that are merged: one has genes such as {str(one[0])!r}, the other such as "
            f"{str(two[0])!r}. If they should share some, name the column with their IDs: gene_ids='<column>'."
        )
    return both
