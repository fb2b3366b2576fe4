from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._adata import keys
from scgeneformer._adata.gene_context_frame import context_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData


def rank_genes_context_df(
    adata: AnnData, group: str | Sequence[str] | None = None, *, key: str = keys.GENE_CONTEXT
) -> pd.DataFrame:
    """Read the result of :func:`scgeneformer.tl.rank_genes_context` as a frame.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.rank_genes_context`.
    group
        One or several groups; None means all.
    key
        Key in `uns`.

    Returns
    -------
    DataFrame with a row per group and gene, sorted by p-value and then effect within a group, and the columns

    `group`, `names`
        Group and gene.
    `effect`
        Cosine distance between the gene's embeddings in the group and in the reference, corrected for noise.
    `scores`
        Effect over its noise.
    `pvals`, `pvals_adj`
        Of the rotation test, and after Benjamini and Hochberg.
    `n_cells`, `n_cells_reference`
        Cells with the gene.
    `n_replicates`
        Replicates of the group with enough of these cells.

    Raises
    ------
    DataError
        If there is no such result or group.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> adata = adata[adata.obs["cell_type"].isin(["CD19+ B", "CD56+ NK"])].copy()
    >>> gf.tl.rank_genes_context(adata, "cell_type", model="mini", reference="CD56+ NK")
    >>> gf.get.rank_genes_context_df(adata, "CD19+ B").columns.tolist()
    ['group', 'names', 'effect', 'scores', 'pvals', 'pvals_adj', 'n_cells', 'n_cells_reference', 'n_replicates']
    """
    return context_frame(adata, group, key)
