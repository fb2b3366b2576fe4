from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._adata.training.evaluation_frame import read_comparison
from scgeneformer._checks import check_choice
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer.pl._figure import axes_of, finish, shows
from scgeneformer.pl._methods import legend, looks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"f1": "F1", "precision": "precision", "recall": "recall", "auc": "AUC (class against the rest)"}


@shared_docs
def class_scores(
    adata: AnnData,
    label: str,
    *,
    metric: str = "f1",
    methods: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Scores of each class, a dot per method.

    The class that is told best, on average over the methods, is on top.

    Parameters
    ----------
    {judged}
    metric
        "f1", "precision", "recall" or "auc".
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
        If there is no such metric or method, or no class has the metric.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::4].copy()
    >>> gf.tl.embed_cells(adata, model="mini")
    >>> gf.tl.probe(adata, "cell_type", methods="knn", n_folds=5)
    >>> gf.pl.class_scores(adata, "cell_type")
    """
    check_choice(METRICS, metric=metric)
    look, found = looks(read_comparison(adata, label).methods), read_comparison(adata, label, methods)
    values = found.per_class.pivot(index="class", columns="method", values=metric)[found.methods]
    values = values.reindex(found.classes).dropna(how="all")
    if values.empty:
        raise DataError(f"No class of {label!r} has a defined {metric}: there is nothing to draw.")
    values = values.iloc[np.argsort(-values.mean(axis=1).to_numpy(), kind="stable")]
    n = found.per_class.groupby("class")["n"].max()
    step = max(0.28, 0.09 * len(found.methods))
    names = 0.075 * (max(map(len, found.classes)) + max(map(len, found.methods)))
    drawn = axes_of(ax, (5.2 + names, 1.2 + step * len(values)))
    _draw(drawn, values, look)
    drawn.set_yticks(range(len(values)), [f"{name}  ({int(n[name]):,})" for name in values.index])
    drawn.set_xlabel(METRICS[metric])
    drawn.set_title(f"{label}: {METRICS[metric].split(' (')[0]} of each class", fontsize="medium", loc="left")
    return finish(drawn, show=shows(ax, show), return_fig=return_fig)


def _draw(ax: Axes, values: pd.DataFrame, look: dict[str, tuple[str, str]]) -> None:
    """Dots of the methods, those of one class one below the other."""
    y, n = np.arange(len(values)), values.shape[1]
    places = (np.arange(n) - (n - 1) / 2) * min(0.16, 0.7 / n)
    for below in y[1::2]:
        ax.axhspan(below - 0.5, below + 0.5, color="0.955", linewidth=0, zorder=0)
    for place, name in zip(places, values.columns, strict=True):
        color, marker = look[name]
        mean = f"{name} ({values[name].mean():.3f})"
        ax.scatter(values[name], y + place, s=30, c=color, marker=marker, linewidths=0, zorder=3, label=mean)
    ax.set_ylim(len(values) - 0.5, -0.5)
    low = float(np.nanmin(values.to_numpy()))
    ax.set_xlim(max(0.0, np.floor(low * 10 - 0.3) / 10) if low > 0 else -0.02, 1.015)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="0.9", linewidth=0.8, zorder=0)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    legend(ax, "method (mean)")
