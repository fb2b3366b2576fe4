from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.counts import open_counts
from scgeneformer._adata.gene_names import name_genes
from scgeneformer._adata.gene_statistics import Settings, gene_statistics
from scgeneformer._adata.var_tokens import check_names
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._docs import shared_docs
from scgeneformer._progress import progress

if TYPE_CHECKING:
    from anndata import AnnData


@shared_docs
def gene_medians(
    adata: AnnData,
    *,
    target_sum: float | None = 1e4,
    max_memory_gb: float = 1.0,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Median, mean and variance of every gene, in one streaming pass.

    Every cell is normalised to `target_sum` over all its genes. The median of a gene is over the cells with a count of
    it, as in the reference's dictionary; mean and variance are over all cells. No model is needed: the genes may be
    those of any species. The counts may be in memory, backed, or a dask array, whose chunks dask reduces.

    Parameters
    ----------
    adata
        Cells × genes.
    target_sum
        Counts per cell after normalisation; None leaves them as they are.
    max_memory_gb
        Memory for the different values of all genes. Medians are exact, to the 7 digits of float32, as long as they
        fit (about 25 million per GB); then values are rounded to 9 bits, and medians are off by 1/512 at most.
    counts_layer
        Layer with the counts (raw, or log1p-normalised over all genes); None takes ``adata.X``.
    use_raw
        Take the counts from ``adata.raw``.
    gene_ids
        Column of ``adata.var`` with the IDs of the genes, or "var_names"; None takes Ensembl IDs of any species where a
        usual column or the index has them, else the index. Genes of equal ID (in any case, of any version) are added
        up, as where cells are encoded, and all get the result; a gene without an ID stands for itself.
    key_added
        Prefix of the keys instead of "geneformer".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.var['geneformer_median']` : float64
        Median over the cells with a count, in counts per `target_sum`; NaN where no cell has one.
    `adata.var['geneformer_mean'], adata.var['geneformer_variance'], adata.var['geneformer_std']` : float64
        Over all cells, zeros included; the variance divides by their number (``ddof=0``).
    `adata.var['geneformer_detection']` : float64
        Share of the cells with a count.
    `adata.uns['geneformer_median']` : dict
        `params`: `counts` and `gene_ids` (where both were found), `target_sum` (0 for None), `n_cells`, `exact`,
        `version`.

    Raises
    ------
    DataError
        If the values are no counts and no log1p of counts, the genes of ``adata.raw`` have other names than those of
        ``adata.var``, or a parameter is out of range.
    MissingKeyError
        If the layer or column does not exist.

    See Also
    --------
    scgeneformer.models.gene_statistics : the same for several files, as an object that merges.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> gf.pp.gene_medians(adata)
    >>> bool(adata.var.loc["CD74", "geneformer_median"] > adata.var.loc["CD3D", "geneformer_median"])
    True
    """
    target = target_of(adata, copy, key_added)
    settings = Settings(target_sum, max_memory_gb)
    counts = open_counts(adata, counts_layer, use_raw)
    check_names(counts)
    names = name_genes(counts.var, gene_ids)
    itself = [f"\0{i}" for i in range(len(names.ids))]  # no ID of any other gene
    names = replace(names, ids=np.where(names.ids == "", itself, names.ids))
    start = logg.info("gene medians")
    with progress(adata.n_obs, "gene medians") as advance:
        found = gene_statistics(counts, names, settings, advance)
    table = found.to_frame().loc[names.ids, list(keys.STATISTICS)].set_axis(counts.var.index)
    if counts.raw:
        table = table[~table.index.duplicated()].reindex(adata.var_names)
    params = {
        "counts": counts.name,
        "gene_ids": names.column,
        "target_sum": float(target_sum or 0),
        "n_cells": found.total_cells,
        "exact": found.exact,
        "version": version("scgeneformer"),
    }
    key = key_added or keys.GENES
    columns = {f"{key}_{name}": pd.Series(table[name].to_numpy(), index=adata.var_names) for name in keys.STATISTICS}
    results = Results(var=columns, uns={f"{key}_median": {"params": params}})
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None
