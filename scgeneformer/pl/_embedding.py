from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgeneformer._adata import keys
from scgeneformer._errors import missing_key
from scgeneformer.pl._figure import check_scatter

if TYPE_CHECKING:
    from anndata import AnnData


def embedding(adata: AnnData, basis: str = keys.EMBEDDING, **kwargs: Any) -> Any:
    """Scatter plot of two components of an embedding, by default those of the cell embedding itself.

    Parameters
    ----------
    adata
        With the embedding in `obsm`.
    basis
        Key in `obsm`, with or without ``X_``.
    kwargs
        All parameters of :func:`scanpy.pl.embedding` (`color`, `ax`, `show`, `return_fig`, ...).

    Returns
    -------
    What :func:`scanpy.pl.embedding` returns.

    Raises
    ------
    MissingKeyError
        If there is no such embedding, or no column or gene of a `color`.
    DataError
        If there are no cells.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::4].copy()
    >>> gf.tl.embed_cells(adata, model="mini")
    >>> gf.tl.pca(adata, n_comps=10)
    >>> gf.pl.embedding(adata, "X_geneformer_pca", color="cell_type")
    """
    import scanpy as sc

    if basis not in adata.obsm and f"X_{basis}" not in adata.obsm:
        raise missing_key("obsm", basis, adata.obsm, "Run gf.tl.embed_cells(adata) first.")
    check_scatter(adata, **kwargs)
    return sc.pl.embedding(adata, basis, **kwargs)
