from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgeneformer._errors import MissingKeyError
from scgeneformer.pl._figure import check_scatter

if TYPE_CHECKING:
    from anndata import AnnData


def umap(adata: AnnData, **kwargs: Any) -> Any:
    """Scatter plot of the UMAP.

    Parameters
    ----------
    adata
        With ``obsm["X_umap"]``, as ``sc.pp.neighbors(adata, use_rep="X_geneformer"); sc.tl.umap(adata)`` leave it. One
        that is there already, as in many published files and in :func:`scgeneformer.datasets.pbmc68k`, is drawn as is.
    kwargs
        All parameters of :func:`scanpy.pl.umap` (`color`, `ax`, `show`, `return_fig`, ...).

    Returns
    -------
    What :func:`scanpy.pl.umap` returns.

    Raises
    ------
    MissingKeyError
        If there is no UMAP, or no column or gene of a `color`.
    DataError
        If there are no cells.

    Examples
    --------
    >>> import scanpy as sc
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::4].copy()
    >>> gf.tl.embed_cells(adata, model="mini")
    >>> sc.pp.neighbors(adata, use_rep="X_geneformer")
    >>> sc.tl.umap(adata)
    >>> gf.pl.umap(adata, color="cell_type")
    """
    import scanpy as sc

    if "X_umap" not in adata.obsm:
        raise MissingKeyError(
            "adata.obsm['X_umap'] does not exist. Make it from the cell embeddings: "
            "sc.pp.neighbors(adata, use_rep='X_geneformer'); sc.tl.umap(adata)."
        )
    check_scatter(adata, **kwargs)
    return sc.pl.umap(adata, **kwargs)
