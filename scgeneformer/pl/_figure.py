"""What all plots that draw one Axes begin and end with: scanpy's habits of `ax`, `show` and `return_fig`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NOUNS = {
    "delete": "deletion",
    "overexpress": "overexpression",
    "activate": "activation",
    "inhibit": "inhibition",
    "mask": "masking",
    "pad": "padding",
    "replace": "replacement",
    "set": "set expression",
}


def titled(mode: str) -> str:
    """How a mode of perturbation is called in a title."""
    return f"In-silico {NOUNS.get(mode, mode or 'perturbation')}"


def small_numbers(ax: Axes) -> str:
    """Take the power of ten out of the numbers of the x axis, where they are small; gives it, for the label."""
    import math

    largest = max(map(abs, ax.get_xlim()))
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    if exponent > -3:
        return ""
    ax.xaxis.set_major_formatter(lambda value, _: f"{value / 10**exponent:.3g}".replace("-", "−"))
    return f" (× 10{str(exponent).translate(SUPERSCRIPT)})"


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The Axes given, or those of a new figure of this size in inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def finish(ax: Axes, *, show: bool | None, return_fig: bool | None) -> Axes | Figure | None:
    """Show the figure or return it, or the Axes.

    Parameters
    ----------
    ax
        What was drawn.
    show
        Show the figure.
    return_fig
        Return the figure, and do not show it.
    """
    import matplotlib.pyplot as plt

    if return_fig:
        return ax.figure  # type: ignore[return-value]
    if show:
        plt.show()
        return None
    return ax


def shows(ax: Axes | None, show: bool | None) -> bool:
    """Whether to show: as asked, else as scanpy's ``autoshow`` says, and not if `ax` is given."""
    import scanpy as sc

    return bool((sc.settings.autoshow and ax is None) if show is None else show)


def check_cells(adata: AnnData) -> None:
    """Refuse to draw no cells, on which scanpy's plots fail."""
    if not adata.n_obs:
        raise DataError("adata has no cells: there is nothing to draw.")
