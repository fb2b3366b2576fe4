from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._adata.perturbation.effects_frame import effects_frame
from scgeneformer._adata.perturbation.perturbed import perturbation_key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def perturbation_effects_df(
    adata: AnnData, perturbation: str | None = None, *, key: str | None = None, min_cells: int = 1
) -> pd.DataFrame:
    """Read which genes respond to a perturbation: how far the embeddings of the other genes move.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.perturb` with ``effects=True``.
    perturbation
        Name of the perturbed gene or combination; None takes the only one there is.
    key
        Key of the perturbation; None takes "geneformer_delete", or the only one with effects.
    min_cells
        Leave out genes that are with the perturbed one in fewer cells.

    Returns
    -------
    DataFrame with a row per responding gene, the largest mean first, and the columns

    `names`
        Gene.
    `mean`, `sd`
        Mean and standard deviation (``ddof=1``) over cells of 1 − cosine of its embedding before and after.
    `n_cells`
        Cells that have both genes.

    Raises
    ------
    MissingKeyError
        If no such effects are stored.
    DataError
        If there is no such perturbation.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:8].copy()
    >>> gf.tl.perturb(adata, ["CD74"], model="mini", effects=True)
    >>> gf.get.perturbation_effects_df(adata, "CD74", min_cells=5).columns.tolist()
    ['names', 'mean', 'sd', 'n_cells']
    """
    return effects_frame(adata, perturbation, perturbation_key(adata, key, "effects"), min_cells)
