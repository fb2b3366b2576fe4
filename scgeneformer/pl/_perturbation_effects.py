from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._adata.perturbation.effects_frame import effects_frame, position
from scgeneformer._adata.perturbation.perturbed import perturbation_key
from scgeneformer._checks import check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer.pl._figure import axes_of, finish, shows, small_numbers, titled

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shared_docs
def perturbation_effects(
    adata: AnnData,
    perturbation: str | None = None,
    *,
    key: str | None = None,
    n_genes: int = 20,
    min_cells: int = 10,
    cmap: str = "viridis_r",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Genes whose embeddings respond most to a perturbation.

    A dot at the mean over cells of 1 − cosine of the gene's embedding before and after, colored by the number of cells
    that have both genes; the line goes two standard errors to either side.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.perturb` with ``effects=True``.
    {perturbation}
    n_genes
        Number of genes.
    min_cells
        Leave out genes that are with the perturbed one in fewer cells: means of few cells are the most extreme.
    cmap
        Color map.
    {axes}

    Returns
    -------
    Axes if ``show=False``, Figure if ``return_fig=True``, else None.

    Raises
    ------
    MissingKeyError
        If no such effects are stored.
    DataError
        If there is no such perturbation, or no gene is with it in `min_cells` cells.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::9].copy()
    >>> gf.tl.perturb(adata, ["CD74"], model="mini", effects=True)
    >>> gf.pl.perturbation_effects(adata, n_genes=12)
    """
    check_whole(n_genes=n_genes)
    key = perturbation_key(adata, key, "effects")
    frame = effects_frame(adata, perturbation, key, min_cells)
    name = str(adata.uns[key]["effects"][position(adata, perturbation, key, "effects")])
    if frame.empty:
        raise DataError(f"No gene is in {min_cells} cells together with {name!r}. Lower min_cells.")
    drawn = axes_of(ax, (5.4, 1.5 + 0.25 * min(n_genes, len(frame))))
    _draw(drawn, frame.head(n_genes), float(frame["mean"].median()), cmap)
    mode = str(adata.uns[key].get("params", {}).get("mode", ""))
    drawn.set_title(f"{titled(mode)} of {name}: responding genes", fontsize="medium", loc="left")
    return finish(drawn, show=shows(ax, show), return_fig=return_fig)


def _draw(ax: Axes, rows: pd.DataFrame, middle: float, cmap: str) -> None:
    y, mean = np.arange(len(rows)), rows["mean"].to_numpy()
    error = 2 * np.nan_to_num(rows["sd"].to_numpy()) / np.sqrt(rows["n_cells"].to_numpy())
    ax.hlines(y, np.maximum(mean - error, 0), mean + error, color="0.75", linewidth=1.6, zorder=1)
    dots = ax.scatter(mean, y, s=46, c=rows["n_cells"].to_numpy(), cmap=cmap, vmin=0, linewidths=0, zorder=3)
    ax.axvline(middle, color="0.4", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    ax.annotate(
        "median of all genes",
        (middle, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -1),
        textcoords="offset points",
        va="top",
        fontsize="small",
        color="0.4",
    )
    ax.set_yticks(y, rows["names"], fontstyle="italic")
    ax.set_ylim(len(rows) - 0.3, -0.7)
    ax.set_xlim(left=0)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("shift of the gene, 1 − cosine" + small_numbers(ax))
    bar = ax.figure.colorbar(dots, ax=ax, shrink=min(1.0, 7 / max(len(rows), 7)), aspect=16, pad=0.03)
    bar.set_label("cells with both genes")
    bar.outline.set_visible(False)
