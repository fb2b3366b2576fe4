"""The picture of ``scgeneformer demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

COLUMNS = {"X_umap": "scanpy: PCA → UMAP", "X_umap_geneformer": "Geneformer mini → UMAP"}
AGREEMENT = {"X_umap": "agreement_pca", "X_umap_geneformer": "agreement_model"}
ROWS = {"cell_type": "Cell types", "leiden_geneformer": "Leiden clusters,\nfrom Geneformer mini"}


def draw(adata: AnnData, found: dict[str, Any], path: Path) -> None:
    """Draw both UMAPs, coloured by cell type and by cluster, in the same colours and sizes.

    Parameters
    ----------
    adata
        With both UMAPs, cell types and clusters.
    found
        The share of neighbours of the same type in either.
    path
        File to write.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from scanpy.plotting import palettes

    from scgeneformer._publish import published

    figure = Figure(figsize=(14, 9), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15, wspace=0.04))
    axes = figure.subplots(len(ROWS), len(COLUMNS))
    clusters = [to_hex(color) for name in ("Dark2", "Set2", "tab20b") for color in colormaps[name].colors]  # type: ignore[attr-defined]
    # Two palettes: a colour never means a cell type in one row and a cluster in the other.
    for row, (key, title), palette in zip(axes, ROWS.items(), (palettes.default_20, clusters), strict=True):
        labels = adata.obs[key]
        colors = dict(zip(labels.cat.categories, palette, strict=False))
        for ax, basis in zip(row, COLUMNS, strict=True):
            _scatter(ax, adata.obsm[basis], labels.map(colors).to_numpy(str))
        _legend(row[-1], colors, labels.value_counts(), title)
    for ax, basis in zip(axes[0], COLUMNS, strict=True):
        ax.set_title(COLUMNS[basis], fontsize=19, fontweight="bold", pad=28)
        note = f"same type among the 15 nearest neighbours: {found[AGREEMENT[basis]]:.1%}"
        ax.text(0.5, 1.02, note, transform=ax.transAxes, ha="center", va="bottom", fontsize=12, color="0.35")
    with published(path) as fresh:
        figure.savefig(fresh)


def _scatter(ax: Axes, points: np.ndarray, colors: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(points))  # no type lies on top of the others throughout
    ax.scatter(points[order, 0], points[order, 1], c=colors[order], s=18, linewidths=0, alpha=0.9)
    ax.margins(0.05)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel("UMAP1", fontsize=10, loc="left")
    ax.set_ylabel("UMAP2", fontsize=10, loc="bottom")
    ax.spines[["top", "right"]].set_visible(False)


def _legend(ax: Axes, colors: dict[str, str], sizes: Any, title: str) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", linestyle="", markersize=9, color=color) for color in colors.values()]
    names = [f"{name} ({sizes[name]})" for name in colors]
    ax.legend(
        marks,
        names,
        title=title,
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
        fontsize=12,
        title_fontsize=14,
        handletextpad=0.2,
        labelspacing=0.55,
        alignment="left",
    )
