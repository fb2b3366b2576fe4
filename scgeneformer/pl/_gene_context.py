from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._adata import keys
from scgeneformer._adata.gene_context_frame import context_frame
from scgeneformer._checks import check_positive, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer.pl._figure import axes_of, finish, shows
from scgeneformer.pl._heat_map import first_in_turn, gene_table, heat_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shared_docs
def gene_context(
    adata: AnnData,
    groups: str | Sequence[str] | None = None,
    *,
    key: str = keys.GENE_CONTEXT,
    n_genes: int = 20,
    fdr: float = 0.05,
    cmap: str = "magma_r",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Heat map of how far the context of genes shifts in each group.

    The genes are the best of each group in turn: the first of every group, then the second, until there are `n_genes`.
    Each stands with the group in which it shifts most. A dot marks shifts that are significant.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.rank_genes_context`.
    groups
        One or several groups; None means all that could be tested.
    key
        Key in `uns`.
    n_genes
        Number of genes in all.
    fdr
        Shifts with an adjusted p-value below get a dot.
    cmap
        Color map.
    {axes}

    Returns
    -------
    Axes if ``show=False``, Figure if ``return_fig=True``, else None.

    Raises
    ------
    DataError
        If there is no such result or group, no gene was tested, or `fdr` is no number up to 1.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> adata = adata[adata.obs["cell_type"].isin(["CD14+ Monocyte", "CD19+ B", "CD56+ NK"])][::2].copy()
    >>> gf.tl.rank_genes_context(adata, "cell_type", model="mini")
    >>> gf.pl.gene_context(adata, n_genes=12)
    """
    check_whole(n_genes=n_genes)
    check_positive(1, fdr=fdr)
    frame = context_frame(adata, groups, key).drop_duplicates(["group", "names"])
    frame = frame[frame["pvals"].notna()]
    if frame.empty:
        raise DataError(f"No gene could be tested in adata.uns[{key!r}]: there is nothing to draw.")
    chosen, significant = first_in_turn(frame, n_genes), frame["pvals_adj"] < fdr
    shift, dots = gene_table(frame, chosen, size=frame["effect"], significant=significant)
    drawn = axes_of(ax, (2.6 + 0.42 * shift.shape[1], 2.2 + 0.24 * shift.shape[0]))
    most = max(float(np.nanmax(shift.to_numpy())), 1e-9)
    missing = heat_map(drawn, shift, dots, cmap=cmap, low=0, high=most, label="shift (cosine distance)")
    drawn.set_title("Shift of gene context", fontsize="medium", loc="left")
    note = f"dot: FDR < {fdr:g}, against {adata.uns[key]['params']['reference']}"
    drawn.set_xlabel(note + (", gray: not tested" if missing else ""), fontsize="small", color="0.35")
    return finish(drawn, show=shows(ax, show), return_fig=return_fig)
