from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from anndata import AnnData
from scanpy import logging as logg

from scgeneformer._adata.counts import open_counts
from scgeneformer._adata.disk.files import format_of, opened
from scgeneformer._adata.gene_names import name_genes
from scgeneformer._adata.gene_statistics import Settings
from scgeneformer._adata.gene_statistics import gene_statistics as statistics_of
from scgeneformer._errors import DataError
from scgeneformer._progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scgeneformer._engine.statistics.gene_statistics import GeneStatistics

CorpusPart: TypeAlias = AnnData | str | os.PathLike[str]


def gene_statistics(
    corpus: CorpusPart | Iterable[CorpusPart],
    *,
    target_sum: float | None = 1e4,
    max_memory_gb: float = 1.0,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
) -> GeneStatistics:
    """Median, mean and variance of every gene over a corpus, in one streaming pass.

    Every cell is normalised to `target_sum` over all its genes. The median of a gene is over the cells with a count of
    it, as in the reference's dictionary; mean and variance are over all cells of the files that have the gene. Nothing
    depends on the order of cells and files, and parts of a corpus, such as files of different workers, can be merged
    (``one.merge(other)``, ``one.save(path)``, ``GeneStatistics.load(path)``).

    Parameters
    ----------
    corpus
        AnnData (in memory, backed, or with a dask array), path of an h5ad or zarr file, or several of them. Their genes
        may differ: they are joined by ID.
    target_sum
        Counts per cell after normalisation; None leaves them as they are.
    max_memory_gb
        Memory for the different values of all genes. Medians are exact, to the 7 digits of float32, as long as they
        fit (about 25 million per GB); then values are rounded to 9 bits, and medians are off by 1/512 at most.
    counts_layer
        Layer with the counts in each of them (raw, or log1p-normalised over all genes); None takes ``X``.
    use_raw
        Take the counts from ``raw``.
    gene_ids
        Column of `var` with the IDs of the genes, or "var_names"; None takes Ensembl IDs of any species where a usual
        column or the index has them, else the index. Genes without an ID count for the total of a cell only; those of
        equal ID (in any case, of any version) are added up, as where cells are encoded.

    Returns
    -------
    The statistics: ``.to_frame()``, ``.median``, ``.mean``, ``.variance``, ``.std``, ``.detection``, ``.n_detected``,
    ``.n_cells`` (cells of the data that have the gene), ``.exact``.

    Raises
    ------
    DataError
        If there is nothing in `corpus`, a file is none of AnnData, values are no counts, or no gene has an ID.
    MissingKeyError
        If a layer or column does not exist.
    FileNotFoundError
        If there is no such file.

    See Also
    --------
    scgeneformer.pp.gene_medians : the same written into `var`.
    build_vocabulary : genes and tokens from it.

    References
    ----------
    Theodoris et al. (2023), Transfer learning enables predictions in network biology, Nature 618, 616: medians over the
    values above zero of counts normalised to 10,000 per cell (there by t-digests, which depend on the order).
    Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, Am. Stat. 37, 242.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> statistics = gf.models.gene_statistics(gf.datasets.pbmc68k())
    >>> statistics.total_cells
    700
    """
    settings = Settings(target_sum, max_memory_gb)
    parts = [corpus] if isinstance(corpus, str | os.PathLike | AnnData) else list(corpus)
    if not parts:
        raise DataError("corpus is empty; give an AnnData, a path, or a list of them.")
    _check(parts)
    merged, start = None, logg.info("gene statistics")
    for part in parts:
        with ExitStack() as stack:
            adata = part if isinstance(part, AnnData) else stack.enter_context(opened(Path(part).expanduser()))
            counts = open_counts(adata, counts_layer, use_raw)
            names = name_genes(counts.var, gene_ids)
            with progress(adata.n_obs, "gene statistics") as advance:
                found = statistics_of(counts, names, settings, advance)
        if names.n_unnamed:
            where = "" if isinstance(part, AnnData) else f" of {part}"
            logg.info(f"    {names.n_unnamed} genes{where} have no ID ({names.column}) and are left out")
        merged = found if merged is None else merged.merge(found)
    assert merged is not None
    exact = "exact" if merged.exact else "rounded to 9 bits"
    logg.info(
        f"    finished: {len(merged.gene_ids):,} genes in {merged.total_cells:,} cells, medians {exact}", time=start
    )
    return merged


def _check(parts: list[CorpusPart]) -> None:
    """Refuse what is no AnnData file before any is read."""
    for part in parts:
        if isinstance(part, AnnData):
            continue
        if not isinstance(part, str | os.PathLike):
            raise DataError(f"corpus holds a {type(part).__name__}; give AnnData or paths of h5ad or zarr files.")
        path = Path(part).expanduser()
        format_of(path)
        if not path.exists():
            raise FileNotFoundError(f"There is no file {path}.")
