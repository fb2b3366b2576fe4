from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata import keys
from scgeneformer._docs import shared_docs
from scgeneformer._errors import MissingKeyError
from scgeneformer.pl._figure import axes_of, finish, shows
from scgeneformer.pl._methods import looks

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shared_docs
def roc(
    adata: AnnData,
    label: str = "gene_class",
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """ROC curves of held-out genes in cells: the mean over the folds of a cross-validation, and its spread.

    With two classes the curve is that of the first, with more there is one for each class against the rest. The mean is
    weighted by the number of corners of the curves, as in the reference; the band is one standard deviation, with the
    same weights; the thin lines are the folds (of two classes). Every gene counts in every cell that contains it.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.train_gene_classifier`.
    label
        What is told.
    {axes}

    Returns
    -------
    Axes if ``show=False``, Figure if ``return_fig=True``, else None.

    Raises
    ------
    MissingKeyError
        If no curves are stored.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:30].copy()
    >>> names = adata.var_names.astype(str)
    >>> classes = {"respiration": names[names.str.match("NDUF|COX")], "MHC": names[names.str.match("HLA-")]}
    >>> trained = gf.tl.train_gene_classifier(adata, classes, model="mini", n_folds=2, max_tokens=32)
    >>> gf.pl.roc(adata)
    """
    key = keys.evaluation_key(label)
    if (found := adata.uns.get(key, {}).get("roc")) is None:
        raise MissingKeyError(
            f"adata.uns[{key!r}]['roc'] does not exist. Run gf.tl.train_gene_classifier(adata, classes) first."
        )
    drawn = axes_of(ax, (4.4, 4.4))
    drawn.plot([0, 1], [0, 1], color="0.6", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    labels = [str(label) for label in found["classes"]]
    for i, (color, _) in enumerate(looks(labels).values()):
        _draw(drawn, found, i, labels[i], color)
    drawn.set_xlim(-0.01, 1.01)
    drawn.set_ylim(-0.01, 1.02)
    drawn.set_aspect("equal")
    drawn.set_xlabel("false positive rate")
    drawn.set_ylabel("true positive rate")
    drawn.spines[["top", "right"]].set_visible(False)
    drawn.set_title(f"{label}: held-out genes in cells", fontsize="medium", loc="left")
    drawn.legend(loc="lower right", frameon=False, fontsize="small", title="AUC ± sd", title_fontsize="small")
    return finish(drawn, show=shows(ax, show), return_fig=return_fig)


def _draw(ax: Axes, found: dict[str, Any], i: int, label: str, color: str) -> None:
    """Mean curve of class `i`, its spread and, of a single class, the folds."""
    fpr, mean, folds, weights = found["fpr"], found["mean_tpr"][i], found["tpr"][i], found["weights"][i]
    sd = np.sqrt(np.average((folds - mean) ** 2, axis=0, weights=weights))
    text = f"{label}: {found['mean_auc'][i]:.3f} ± {found['auc_sd'][i]:.3f}"
    ax.plot(fpr, mean, color=color, linewidth=2, zorder=4, label=text)
    ax.fill_between(
        fpr, np.maximum(mean - sd, 0), np.minimum(mean + sd, 1), color=color, alpha=0.15, linewidth=0, zorder=2
    )
    if len(found["classes"]) == 1:
        ax.plot(fpr, folds.T, color=color, linewidth=0.7, alpha=0.5, zorder=3)
