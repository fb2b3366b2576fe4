"""Principal components of gene expression, fitted on some of the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from scgeneformer._adata.counts import Counts

TARGET_SUM, N_GENES, N_BINS = 1e4, 2000, 20


def expression_pca(counts: Counts, train: np.ndarray, n_pcs: int) -> np.ndarray:
    """Principal components that know nothing of the cells that do not train.

    Counts are scaled to 10,000 per cell; the 2,000 most variable genes are chosen among the training cells by
    normalized dispersion (as ``scanpy.pp.highly_variable_genes(flavor="seurat")``; Satija et al. 2015); log1p of these
    is centred and rotated as the training cells have it. The genes of all cells are never dense.

    Parameters
    ----------
    counts
        Where the counts are.
    train
        Which cells it is fitted on, (n_obs,) bool.
    n_pcs
        Number of components, at most as many as training cells and genes allow.

    Returns
    -------
    (n_obs, n_pcs) float32.

    Raises
    ------
    DataError
        If no gene varies between the training cells.
    """
    from scipy.linalg import eigh

    genes = _variable_genes(counts, train)
    if not len(genes):
        raise DataError(
            f"No gene of {counts.name} varies between the training cells, so that there are no principal components to "
            "compare with. Look at the counts: gf.pp.check(adata)."
        )
    blocks = [_scaled(block)[:, genes].log1p() for _, block in counts.blocks()]
    values = sp.vstack(blocks, format="csr")
    fitted = values[train].astype(np.float64)
    mean = np.asarray(fitted.mean(axis=0)).ravel()
    covariance = (fitted.T @ fitted).toarray() / fitted.shape[0] - np.outer(mean, mean)
    n = max(1, min(n_pcs, len(genes), fitted.shape[0] - 1))
    axes = eigh(covariance, subset_by_index=[len(genes) - n, len(genes) - 1])[1][:, ::-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n)])  # either sign would do; always the same
    return np.asarray(values @ axes - mean @ axes, dtype=np.float32)


def _scaled(block: sp.csr_matrix) -> sp.csr_matrix:
    """Counts scaled to the same sum in every cell; empty cells stay empty."""
    total = np.asarray(block.sum(axis=1)).ravel()
    return sp.csr_matrix(sp.diags(TARGET_SUM / np.where(total > 0, total, 1)) @ block)


def _variable_genes(counts: Counts, train: np.ndarray) -> np.ndarray:
    """Columns of the genes with the largest dispersion among those of a like mean, over the training cells."""
    n, total, squares = int(train.sum()), np.zeros(len(counts.var)), np.zeros(len(counts.var))
    for start, block in counts.blocks():
        scaled = _scaled(block)[train[start : start + block.shape[0]]].astype(np.float64)
        total += np.asarray(scaled.sum(axis=0)).ravel()
        squares += np.asarray(scaled.multiply(scaled).sum(axis=0)).ravel()
    mean = total / n
    variance = (squares / n - mean**2) * n / max(n - 1, 1)
    seen = np.flatnonzero((mean > 0) & (variance > 0))
    if len(seen) <= N_GENES:
        return seen
    dispersion = pd.Series(np.log(variance[seen] / mean[seen]))
    bins = dispersion.groupby(pd.cut(np.log1p(mean), N_BINS, labels=False)[seen])
    spread, middle = bins.transform("std"), bins.transform("mean")
    alone = spread.isna()  # the only gene of its bin
    score = (dispersion - middle.mask(alone, 0)) / spread.mask(alone, middle)
    return np.sort(seen[np.argsort(-score.to_numpy(), kind="stable")[:N_GENES]])
