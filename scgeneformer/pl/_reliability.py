from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._adata.training.evaluation_frame import read_comparison
from scgeneformer._docs import shared_docs
from scgeneformer.pl._figure import axes_of, finish, shows
from scgeneformer.pl._methods import legend, looks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AREA = 220.0  # of the dot of a bin that holds all cells, in square points
FEW = 5  # cells; bins with fewer are hollow, and not joined to the others


@shared_docs
def reliability(
    adata: AnnData,
    label: str,
    *,
    methods: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """How far the confidence of methods can be trusted: accuracy of the cells in ten bins of confidence.

    A dot below the diagonal means that the method is too sure of itself. Its area is the share of the cells in the bin;
    bins with fewer than 5 cells are hollow, and not joined to the others. The calibration error, the mean
    distance from the diagonal, stands behind the name.

    Parameters
    ----------
    {judged}
    methods
        One or several methods; None means all.
    {axes}

    Returns
    -------
    Axes if ``show=False``, Figure if ``return_fig=True``, else None.

    Raises
    ------
    MissingKeyError
        If no comparison is stored.
    DataError
        If there is no such method.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::4].copy()
    >>> gf.tl.embed_cells(adata, model="mini")
    >>> gf.tl.probe(adata, "cell_type", methods="knn", n_folds=5)
    >>> gf.pl.reliability(adata, "cell_type")
    """
    look, found = looks(read_comparison(adata, label).methods), read_comparison(adata, label, methods)
    drawn = axes_of(ax, (5.0 + 0.075 * max(map(len, found.methods)), 4.2))
    drawn.plot([0, 1], [0, 1], color="0.6", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for name in found.methods:
        bins = found.reliability[(found.reliability["method"] == name) & (found.reliability["n"] > 0)]
        color, marker = look[name]
        x, y, n = (bins[column].to_numpy(dtype=np.float64) for column in ("confidence", "accuracy", "n"))
        many, error = n >= FEW, f"{name} ({found.table['calibration_error'][name]:.3f})"
        drawn.plot(x[many], y[many], color=color, linewidth=1.1, zorder=2, marker=marker, markersize=3, label=error)
        drawn.scatter(x[many], y[many], s=8 + AREA * n[many] / n.sum(), c=color, marker=marker, alpha=0.5, linewidths=0)
        drawn.scatter(x[~many], y[~many], s=10, facecolors="white", edgecolors=color, marker=marker, linewidths=0.8)
    left = np.floor(10 * found.reliability["confidence"].min()) / 10
    drawn.set_xlim(min(max(left, 0.0), 0.8), 1.02)
    drawn.set_ylim(-0.02, 1.04)
    drawn.grid(color="0.93", linewidth=0.8)
    drawn.set_axisbelow(True)
    drawn.set_xlabel("confidence (largest probability)")
    drawn.set_ylabel("accuracy")
    drawn.spines[["top", "right"]].set_visible(False)
    drawn.set_title(f"{label}: confidence and accuracy", fontsize="medium", loc="left")
    legend(drawn, "method (calibration error)")
    return finish(drawn, show=shows(ax, show), return_fig=return_fig)
