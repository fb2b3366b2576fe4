from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata import keys
from scgeneformer._adata.perturbation.effects_frame import cell_vectors
from scgeneformer._adata.perturbation.perturbed import perturbation_key
from scgeneformer._checks import check_positive, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError, missing_key
from scgeneformer.pl._figure import check_scatter, finish, shows, titled

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_CELLS = 10
SHORT = 0.12  # of the longest arrow
LARGEST = 90  # area of a cell, in square points; larger ones would hide each other and the arrows


@shared_docs
def perturbation_arrows(
    adata: AnnData,
    perturbation: str | None = None,
    *,
    key: str | None = None,
    basis: str = "umap",
    use_rep: str = keys.EMBEDDING,
    color: str | None = None,
    n_neighbors: int = 30,
    n_grid: int = 22,
    temperature: float = 0.1,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
    **kwargs: Any,
) -> Axes | Figure | None:
    """Where a perturbation moves cells: arrows on the UMAP, smoothed on a grid.

    As RNA velocity is drawn: among the nearest neighbours of a cell, those that lie in the direction in which its
    embedding moves pull the arrow towards themselves. An arrow shows a direction and how far the neighbours agree on
    it, not how far the cell moves; the longest are about as long as the grid is wide.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.perturb` with ``vectors=True`` and :func:`scgeneformer.tl.embed_cells` with the
        same model and layer.
    {perturbation}
    basis
        Map to draw on, a key in `obsm` with or without ``X_``.
    use_rep
        Key in `obsm` of the embedding in which the cells move.
    color
        Column of ``adata.obs`` or gene; None leaves the cells gray.
    n_neighbors
        Neighbours of each cell, in `use_rep`.
    n_grid
        Points of the grid along the longer side of the map.
    temperature
        The smaller, the more of the arrow is due to the neighbours that lie best.
    {axes}
    kwargs
        All other parameters of :func:`scanpy.pl.embedding` (`size`, `palette`, `title`, ...).

    Returns
    -------
    Axes if ``show=False``, Figure if ``return_fig=True``, else None.

    Raises
    ------
    MissingKeyError
        If there are no vectors, no such map or embedding, or no column or gene of this `color`.
    DataError
        If there is no such perturbation, it applies to fewer than ten cells, or the embedding is of another model.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> adata = adata[adata.obs["cell_type"].isin(["CD14+ Monocyte", "Dendritic"])][::4].copy()
    >>> gf.tl.embed_cells(adata, model="mini")
    >>> gf.tl.perturb(adata, ["LYZ"], model="mini", vectors=True)
    >>> gf.pl.perturbation_arrows(adata, color="cell_type", n_grid=14)
    """
    import scanpy as sc

    from scgeneformer._engine.statistics.projection import project, smooth

    check_whole(2, n_neighbors=n_neighbors, n_grid=n_grid)
    check_positive(temperature=temperature)
    check_scatter(adata, color, **kwargs)
    key = perturbation_key(adata, key, "vectors")
    name, vectors = cell_vectors(adata, perturbation, key)
    positions = _embedding(adata, basis, "Run sc.pp.neighbors(adata, use_rep='X_geneformer'); sc.tl.umap(adata).")
    points = _embedding(adata, use_rep, "Run gf.tl.embed_cells(adata) first.")
    if points.shape[1] != vectors.shape[1]:
        raise DataError(
            f"adata.obsm[{use_rep!r}] has {points.shape[1]} dimensions, and the vectors of {key!r} have "
            f"{vectors.shape[1]}. Embed the cells with the model that they were perturbed with."
        )
    there = ~(np.isnan(points).any(axis=1) | np.isnan(positions[:, :2]).any(axis=1))
    moved = int((there & ~np.isnan(vectors).any(axis=1)).sum())
    if moved < MIN_CELLS:
        raise DataError(
            f"{name!r} moves {moved} cells of the map, and arrows need at least {MIN_CELLS}. Perturb more cells."
        )
    arrows = project(vectors[there], points[there], positions[there, :2], n_neighbors, temperature)
    grid, means = smooth(positions[there, :2], arrows, n_grid)
    mode = str(adata.uns[key].get("params", {}).get("mode", ""))
    look: dict[str, Any] = {"frameon": False, "title": f"{titled(mode)} of {name}, {moved:,} cells"}
    look |= {"size": min(120_000 / adata.n_obs, LARGEST)}
    look |= {"alpha": 0.5} if color else {"na_color": "0.85"}
    save = kwargs.pop("save", None)  # not by scanpy, which would save the map without arrows
    drawn = sc.pl.embedding(adata, basis, color=color, ax=ax, show=False, save=False, **(look | kwargs))
    _draw(drawn, grid, means)
    return finish(drawn, show=shows(ax, show), return_fig=return_fig, save=save, name=basis)


def _embedding(adata: AnnData, key: str, remedy: str) -> np.ndarray:
    for name in (key, f"X_{key}"):
        if name in adata.obsm:
            return np.asarray(adata.obsm[name], dtype=np.float64)
    raise missing_key("obsm", key, adata.obsm, remedy)


def _draw(ax: Axes, grid: np.ndarray, arrows: np.ndarray) -> None:
    """Arrows centred on their points; the long ones are a step of the grid."""
    from matplotlib.patheffects import withStroke

    lengths = np.linalg.norm(arrows, axis=1)
    longest = float(np.percentile(lengths, 95)) if len(lengths) else 1.0
    xs = np.unique(grid[:, 0])
    step = float(np.diff(xs).min()) if len(xs) > 1 else 1.0
    grid, arrows = (each[lengths > SHORT * longest] for each in (grid, arrows))  # of shorter ones only the head is seen
    ax.quiver(
        *grid.T,
        *(arrows * (1.15 * step / longest)).T,
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="mid",
        width=0.0034,
        headwidth=4.2,
        headlength=4.6,
        headaxislength=4.0,
        color="0.1",
        zorder=5,
        path_effects=[withStroke(linewidth=1.4, foreground="white", alpha=0.8)],
    )
