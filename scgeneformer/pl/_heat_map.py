"""A heat map of genes × groups of cells, and the table behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes


def first_in_turn(frame: pd.DataFrame, n_genes: int) -> np.ndarray:
    """Names of the first gene of every group, then of the second, until there are `n_genes`."""
    turn = frame.groupby("group", sort=False).cumcount()
    return frame.assign(turn=turn).sort_values("turn", kind="stable")["names"].unique()[:n_genes]


def gene_table(
    frame: pd.DataFrame, names: Sequence[str] | np.ndarray, *, size: pd.Series, significant: pd.Series
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effect, and whether it is significant, genes × groups; each gene stands with the group of its largest effect.

    Parameters
    ----------
    frame
        A row per group and gene, with the columns "group", "names" and "effect".
    names
        Genes that are kept.
    size, significant
        How large the effect of each row is, and whether it is significant.
    """
    groups, frame = frame["group"].unique(), frame.assign(size=size, significant=significant)
    kept, of = frame[frame["names"].isin(names)], ("effect", "size", "significant")
    effect, sizes, marked = (kept.pivot(index="names", columns="group", values=v).reindex(columns=groups) for v in of)
    largest = np.nan_to_num(sizes.to_numpy(), nan=-np.inf)
    order = np.lexsort((-largest.max(axis=1), largest.argmax(axis=1)))
    return effect.iloc[order], marked.iloc[order] == True  # noqa: E712  # NaN where the gene has no effect


def heat_map(
    ax: Axes, values: pd.DataFrame, marked: pd.DataFrame, *, cmap: str, low: float, high: float, label: str
) -> bool:
    """Draw the values with a color bar, and a dot on those that are marked.

    Parameters
    ----------
    ax
        Draw here.
    values
        Genes × groups; NaN is gray.
    marked
        Where the dots are.
    cmap
        Color map.
    low, high
        Values at its ends; the bar ends in an arrow where others are beyond.
    label
        Of the color bar.

    Returns
    -------
    Whether a value is missing.
    """
    import matplotlib as mpl

    colors = mpl.colormaps[cmap].with_extremes(bad="0.88")
    shown = np.ma.masked_invalid(values.to_numpy(dtype=np.float64))
    image: Any = ax.imshow(shown, aspect="auto", cmap=colors, vmin=low, vmax=high)
    rows, columns = np.nonzero(marked.to_numpy())
    ink = readable(image.cmap(image.norm(shown.filled(0)[rows, columns])))
    ax.scatter(columns, rows, s=8, c=ink, linewidths=0)
    ax.set_xticks(range(values.shape[1]), values.columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(values.shape[0]), values.index, fontstyle="italic")
    ax.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    ax.grid(False)
    ax.grid(which="minor", color="white", linewidth=0.8)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    below, above = bool((shown < low).any()), bool((shown > high).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    shrink = min(1.0, 8 / max(len(values), 1))
    bar = ax.figure.colorbar(image, ax=ax, shrink=shrink, aspect=18, pad=0.03, extend=extend)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bool(np.ma.is_masked(shown))


def readable(colors: np.ndarray) -> np.ndarray:
    """White or black, whichever can be read on each of these colors, (n, 4) RGBA."""
    red, green, blue, _ = colors.T.reshape(4, -1)
    return np.where(0.3 * red + 0.59 * green + 0.11 * blue < 0.5, "white", "black")
