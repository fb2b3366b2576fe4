from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer._adata.training.evaluation_frame import read_comparison
from scgeneformer._docs import shared_docs
from scgeneformer.pl._figure import axes_of, finish, shows
from scgeneformer.pl._heat_map import heat_map, readable

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shared_docs
def confusion(
    adata: AnnData,
    label: str,
    *,
    method: str | None = None,
    normalize: bool = True,
    sort: bool = True,
    cmap: str = "Blues",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Heat map of true × predicted classes on the cells that a classifier was not trained on.

    Parameters
    ----------
    {judged}
    method
        Method that is drawn; None takes that of the highest macro F1.
    normalize
        Percent of the cells of the true class, in place of cells. Percent below 0.5 are left blank.
    sort
        Put classes that are taken for each other side by side (average linkage of the share of cells that go from one
        to the other); False keeps the order of the classes.
    cmap
        Color map.
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
    >>> gf.pl.confusion(adata, "cell_type")
    """
    found = read_comparison(adata, label, method)
    chosen = int(np.nan_to_num(found.table["macro_f1"].to_numpy(dtype=np.float64), nan=-1).argmax())
    counts = found.confusion[chosen]
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
    order = _order(np.nan_to_num(shares)) if sort else np.arange(len(counts))
    values = (100 * shares if normalize else counts)[np.ix_(order, order)]
    names = [found.classes[i] for i in order]
    rows = [f"{name}  ({n:,})" for name, n in zip(names, counts.sum(axis=1)[order], strict=True)]
    longest = 0.075 * max(map(len, names))
    drawn = axes_of(ax, (2.4 + longest + 0.42 * len(names), 1.4 + longest + 0.42 * len(names)))
    _draw(drawn, pd.DataFrame(values, index=rows, columns=names), normalize, cmap)
    score = found.table.iloc[chosen]
    scores = f"accuracy {score['accuracy']:.3f}, macro F1 {score['macro_f1']:.3f}, {int(score['n_test']):,} cells"
    drawn.set_title(f"{label}: {found.methods[chosen]}\n{scores}", fontsize="medium", loc="left")
    return finish(drawn, show=shows(ax, show), return_fig=return_fig)


def _order(shares: np.ndarray) -> np.ndarray:
    """Order of the classes in which those that are confused are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(shares) < 3:
        return np.arange(len(shares))
    distance = 1 - np.clip((shares + shares.T) / 2, 0, 1)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))


def _draw(ax: Axes, values: pd.DataFrame, normalize: bool, cmap: str) -> None:
    """The heat map, with its numbers."""
    import matplotlib as mpl

    most = 100.0 if normalize else max(float(np.nanmax(values.to_numpy())), 1.0)
    unit = "% of the true class" if normalize else "cells"
    nowhere = pd.DataFrame(False, index=values.index, columns=values.columns)
    heat_map(ax, values, nowhere, cmap=cmap, low=0, high=most, label=unit)
    ax.set_aspect("equal")
    ax.set_yticks(range(len(values)), values.index, fontstyle="normal")
    ax.set_xlabel("predicted")
    ax.set_ylabel("true (cells)")
    size = min(8.0, 200 / max(len(values), 1))
    rows, columns = np.nonzero(np.nan_to_num(values.to_numpy()) >= 0.5)
    written = values.to_numpy(dtype=np.float64)[rows, columns]
    for i, j, value, ink in zip(rows, columns, written, readable(mpl.colormaps[cmap](written / most)), strict=True):
        ax.text(float(j), float(i), f"{value:,.0f}", ha="center", va="center", fontsize=size, color=ink)
