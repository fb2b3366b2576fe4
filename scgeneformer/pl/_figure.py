"""What all plots that draw one Axes begin and end with: scanpy's habits of `ax`, `show` and `return_fig`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scgeneformer._checks import did_you_mean
from scgeneformer._errors import DataError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn = TypeVar("Drawn", bound="Axes | list[Axes]")
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


def finish(
    drawn: Drawn, *, show: bool | None, return_fig: bool | None, save: bool | str | None = False, name: str = ""
) -> Drawn | Figure | None:
    """Save the figure, show it or return it, or the Axes.

    Parameters
    ----------
    drawn
        What was drawn.
    show
        Show the figure.
    return_fig
        Return the figure, and do not show it.
    save
        As scanpy's plots take it: True, or text to be appended to the name of the file; None does as
        ``scanpy.settings.autosave`` says.
    name
        How the name of the file begins.
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    figure: Any = (drawn[0] if isinstance(drawn, list) else drawn).figure
    if saved := sc.settings.autosave if save is None else save:
        _save(figure, name, saved if isinstance(saved, str) else "")
    if return_fig:
        return figure
    if show:
        plt.show()
    if saved:
        plt.close(figure)
    return None if show else drawn


def _save(figure: Figure, name: str, more: str) -> None:
    """Save a figure where scanpy would, under the same name; `more` may end in a format."""
    import scanpy as sc

    kind = next((one for one in (".svg", ".pdf", ".png") if more.endswith(one)), "")
    ending = kind or f".{sc.settings.file_format_figs}"
    path = Path(sc.settings.figdir) / f"{name}{more.removesuffix(kind)}{sc.settings.plot_suffix}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    sc.logging.warning(f"saving figure to file {path}")
    figure.savefig(path, bbox_inches="tight")


def shows(ax: Axes | None, show: bool | None) -> bool:
    """Whether to show: as asked, else as scanpy's ``autoshow`` says, and not if `ax` is given."""
    import scanpy as sc

    return bool((sc.settings.autoshow and ax is None) if show is None else show)


def check_cells(adata: AnnData) -> None:
    """Refuse to draw no cells, on which scanpy's plots fail."""
    if not adata.n_obs:
        raise DataError("adata has no cells: there is nothing to draw.")


def check_scatter(adata: AnnData, color: str | Sequence[str] | None = None, **given: Any) -> None:
    """Refuse what scanpy's scatter plots fail on: no cells, and colors that are no columns of `obs` and no genes."""
    check_cells(adata)
    frames = [adata.var] if adata.raw is None else [adata.var, adata.raw.var]
    genes = {name for frame in frames for name in frame.get(given.get("gene_symbols"), frame.index)}
    asked = [color] if color is None or isinstance(color, str) else list(color)
    if missing := [one for one in asked if one is not None and one not in adata.obs and one not in genes]:
        raise MissingKeyError(
            f"color={missing[0]!r} is neither a column of adata.obs nor a gene."
            f"{did_you_mean(missing, adata.obs)} The columns are: {', '.join(map(repr, adata.obs)) or 'none'}."
        )
