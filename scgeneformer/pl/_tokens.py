from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata import keys
from scgeneformer._adata.groups import find_groups
from scgeneformer._docs import shared_docs
from scgeneformer._errors import MissingKeyError
from scgeneformer.pl._figure import axes_of, check_cells, finish, shows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shared_docs
def tokens(
    adata: AnnData,
    *,
    groupby: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """How many genes of each cell the model knows, and how many of them are cut off.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.tokenize`.
    groupby
        One or several columns of `obs`: one row of the plot per group; None draws one histogram.
    {axes}

    Returns
    -------
    Axes if ``show=False``, Figure if ``return_fig=True``, else None.

    Raises
    ------
    MissingKeyError
        If the cells have not been tokenized.
    DataError
        If there are no cells.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> gf.tl.tokenize(adata, model="mini")
    >>> gf.pl.tokens(adata, groupby="cell_type")
    """
    if keys.N_GENES not in adata.obs or keys.TOKENS not in adata.uns:
        raise MissingKeyError(f"adata.obs[{keys.N_GENES!r}] does not exist. Run gf.tl.tokenize(adata) first.")
    check_cells(adata)
    n_genes = adata.obs[keys.N_GENES].to_numpy()
    limit = int(adata.uns[keys.TOKENS]["max_genes"])
    groups = None if groupby is None else find_groups(adata, groupby)
    height = 3.0 if groups is None else max(3.0, 1.0 + 0.35 * len(groups.names))
    drawn = axes_of(ax, (6, height))
    if groups is None:
        _histogram(drawn, n_genes, limit)
    else:
        _boxes(drawn, [n_genes[groups.codes == code] for code in range(len(groups.names))], groups.names)
    _mark_limit(drawn, n_genes, limit)
    return finish(drawn, show=shows(ax, show), return_fig=return_fig)


def _histogram(ax: Axes, n_genes: np.ndarray, limit: int) -> None:
    edges = np.histogram_bin_edges(n_genes, bins=50).tolist()
    kept, cut = n_genes[n_genes <= limit], n_genes[n_genes > limit]
    ax.hist(kept, bins=edges, color="tab:blue", label="whole")
    if len(cut):
        ax.hist(cut, bins=edges, color="tab:orange", label="cut off")
        ax.legend(frameon=False)
    ax.locator_params(axis="y", integer=True)
    ax.set(ylabel="cells")


def _boxes(ax: Axes, values: list[np.ndarray], names: list[str]) -> None:
    dots = {"marker": ".", "markersize": 4, "markerfacecolor": "0.5", "markeredgecolor": "none"}
    look: dict[str, Any] = {"patch_artist": True, "widths": 0.6, "flierprops": dots}
    look |= {"boxprops": {"facecolor": "#a6c0d9", "linewidth": 0.8}, "medianprops": {"color": "black"}}
    ax.boxplot(values, orientation="horizontal", **look)
    ax.set_yticks(range(1, len(names) + 1), [f"{name}  ({len(n):,})" for name, n in zip(names, values, strict=True)])
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()


def _mark_limit(ax: Axes, n_genes: np.ndarray, limit: int) -> None:
    over = int((n_genes > limit).sum())
    share = over / len(n_genes)
    if over:
        ax.axvline(limit, color="tab:red", linewidth=1)
    ax.set_xlabel("genes per cell that the model knows")
    many = "None" if not over else f"{share:.0%}" if share >= 0.01 else f"{over:,}"
    exceed = "exceed" if over > 1 else "exceeds"
    title = f"{many} of {len(n_genes):,} cells {exceed} the {limit:,} genes that fit"
    ax.set_title(title, fontsize="medium", loc="left")
    ax.set_xlim(left=0)
    ax.spines[["top", "right"]].set_visible(False)
