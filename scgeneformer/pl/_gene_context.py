from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer._adata import keys
from scgeneformer._adata.context_frame import context_frame
from scgeneformer._checks import check_whole
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def gene_context(
    adata: AnnData,
    key: str = keys.GENE_CONTEXT,
    *,
    n_genes: int = 20,
    groups: str | Sequence[str] | None = None,
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
    key
        Key in `uns`.
    n_genes
        Number of genes in all.
    groups
        One or several groups; None means all that could be tested.
    fdr
        Shifts with an adjusted p-value below get a dot.
    cmap
        Color map.
    ax
        Draw here.
    show
        Show the figure; by default as scanpy's ``autoshow`` says, and not if `ax` is given.
    return_fig
        Return the figure.

    Returns
    -------
    Axes if ``show=False``, Figure if ``return_fig=True``, else None.

    Raises
    ------
    DataError
        If there is no such result or group, or no gene was tested.
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    check_whole(n_genes=n_genes)
    frame = context_frame(adata, groups, key).drop_duplicates(["group", "names"])
    frame = frame[frame["pvals"].notna()]
    if frame.empty:
        raise DataError(f"No gene could be tested in adata.uns[{key!r}]: there is nothing to draw.")
    shift, significant = _table(frame, n_genes, fdr)
    if ax is None:
        size = (2.6 + 0.42 * shift.shape[1], 2.2 + 0.24 * shift.shape[0])
        _, ax = plt.subplots(figsize=size, layout="constrained")
        show = sc.settings.autoshow if show is None else show
    reference = str(adata.uns[key]["params"]["reference"])
    _draw(ax, shift, significant, cmap, f"dot: FDR < {fdr:g}, against {reference}")
    if return_fig:
        return ax.figure  # type: ignore[return-value]
    if show:
        plt.show()
        return None
    return ax


def _table(frame: pd.DataFrame, n_genes: int, fdr: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shift, and whether it is significant, genes × groups."""
    columns = frame["group"].unique()
    turn = frame.groupby("group", sort=False).cumcount()
    chosen = frame.assign(turn=turn).sort_values("turn", kind="stable")["names"].unique()[:n_genes]
    frame = frame[frame["names"].isin(chosen)]
    shift = frame.pivot(index="names", columns="group", values="effect").reindex(columns=columns)
    most = np.nan_to_num(shift.to_numpy(), nan=-np.inf)
    order = np.lexsort((-most.max(axis=1), most.argmax(axis=1)))
    shift = shift.iloc[order]
    adjusted = frame.pivot(index="names", columns="group", values="pvals_adj").reindex_like(shift)
    return shift, adjusted < fdr


def _draw(ax: Axes, shift: pd.DataFrame, significant: pd.DataFrame, cmap: str, note: str) -> None:
    import matplotlib as mpl

    colors = mpl.colormaps[cmap].with_extremes(bad="0.88")
    values = np.ma.masked_invalid(shift.to_numpy())
    image: Any = ax.imshow(values, aspect="auto", cmap=colors, vmin=0, vmax=max(float(values.max()), 1e-9))
    rows, columns = np.nonzero(significant.to_numpy())
    dark = image.norm(values.filled(0)[rows, columns]) > 0.5
    ax.scatter(columns, rows, s=7, c=np.where(dark, "white", "black"), linewidths=0)
    ax.set_xticks(range(shift.shape[1]), shift.columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(shift.shape[0]), shift.index, fontstyle="italic")
    ax.tick_params(length=0)
    ax.set_xticks(np.arange(shift.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(shift.shape[0] + 1) - 0.5, minor=True)
    ax.grid(False)
    ax.grid(which="minor", color="white", linewidth=0.8)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("Shift of gene context", fontsize="medium", loc="left")
    missing = ", gray: not tested" if np.ma.is_masked(values) else ""
    ax.set_xlabel(note + missing, fontsize="small", color="0.35")
    bar = ax.figure.colorbar(image, ax=ax, shrink=min(1.0, 8 / len(shift)), aspect=18, pad=0.03)
    bar.set_label("shift (cosine distance)")
    bar.outline.set_visible(False)
