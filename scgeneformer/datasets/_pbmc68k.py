from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def pbmc68k() -> AnnData:
    """700 real peripheral blood mononuclear cells, 765 genes, with cell types; ships with scanpy.

    :func:`scanpy.datasets.pbmc68k_reduced` with the log1p-normalised counts in `X` (scanpy keeps them in `raw` and
    has scaled values in `X`) and the cell types in ``obs["cell_type"]``. Scanpy's own PCA and UMAP stay in `obsm`.

    Returns
    -------
    AnnData 700 × 765: `X` float32 CSR, `obs['cell_type']` categorical with 10 types.

    References
    ----------
    Zheng et al. (2017), Massively parallel digital transcriptional profiling of single cells, Nat. Commun. 8, 14049.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.datasets.pbmc68k().shape
    (700, 765)
    """
    import scanpy as sc
    import scipy.sparse as sp

    source = sc.datasets.pbmc68k_reduced()
    adata = source.raw.to_adata()
    adata.X = sp.csr_matrix(adata.X)
    adata.obs["cell_type"] = adata.obs["bulk_labels"]
    adata.uns["cell_type_colors"] = source.uns["bulk_labels_colors"]
    return adata
