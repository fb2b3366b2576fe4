from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata import keys
from scgeneformer._adata.gene_vectors import gene_vectors, rows_of
from scgeneformer._checks import as_names, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError, missing_key
from scgeneformer.pl._figure import finish, shows
from scgeneformer.pl._labels import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_GENES = 4


@shared_docs
def gene_embedding(
    adata: AnnData,
    key: str = keys.GENES,
    *,
    genes: str | Sequence[str] | None = None,
    group: str | None = None,
    color: str | Sequence[str] | None = None,
    n_neighbors: int = 15,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
    **kwargs: Any,
) -> Axes | list[Axes] | Figure | None:
    """UMAP of the genes by their contextual embeddings.

    The genes become the rows of an AnnData of their own, on which scanpy finds neighbours by cosine and the UMAP.
    `adata` is left as it is.

    Parameters
    ----------
    adata
        With gene embeddings in `varm`, as `gf.tl.embed_genes` leaves them.
    key
        Key in `varm`: "geneformer", or "geneformer_<groupby>" for those of groups of cells.
    genes
        Genes to mark and to label, named as in :func:`scgeneformer.tl.gene_neighbors`; those without an embedding are
        listed in a warning.
    group
        Group of cells whose gene embeddings are drawn; needed where ``varm[key]`` is one per group.
    color
        One or several columns of `adata.var`.
    n_neighbors
        Of :func:`scanpy.pp.neighbors`.
    seed
        Of neighbours and UMAP.
    {axes}
    kwargs
        All other parameters of :func:`scanpy.pl.umap` (`size`, `palette`, `title`, ...).

    Returns
    -------
    Axes if ``show=False`` (a list of them for several colors), Figure if ``return_fig=True``, else None.

    Raises
    ------
    DataError
        If there are no gene embeddings under `key`, fewer than four genes have one, or `group`, `color` or all of
        `genes` do not exist.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::7].copy()
    >>> gf.tl.embed_genes(adata, model="mini")
    >>> gf.pl.gene_embedding(adata, genes=["CD3D", "CD79A", "LYZ"])
    """
    import scanpy as sc

    check_whole(2, n_neighbors=n_neighbors)
    check_whole(0, 2**32 - 1, seed=seed)
    columns = [] if color is None else as_names(color)
    if missing := [column for column in columns if column not in adata.var]:
        raise missing_key("var", missing[0], adata.var.columns)
    known, vectors = gene_vectors(adata, key, group)
    marked = rows_of(adata, [] if genes is None else as_names(genes), known)
    if len(known) < MIN_GENES:
        raise DataError(
            f"{len(known)} genes have an embedding, and a UMAP needs at least {MIN_GENES}. Embed more: "
            "gf.tl.embed_genes(adata)."
        )
    rows = _umap(adata, known, vectors, columns, n_neighbors, seed)
    about = f"Contextual embeddings of {len(known):,} genes" + ("" if group is None else f", {group}")
    look: dict[str, Any] = {"frameon": False, "size": np.clip(30_000 / len(known), 6, 60)}
    look |= {"na_in_legend": False} if columns else {"title": about, "na_color": "0.7"}
    save = kwargs.pop("save", None)  # not by scanpy, which would save the UMAP without names
    drawn = sc.pl.umap(rows, color=columns or None, ax=ax, show=False, save=False, **(look | kwargs))
    for one in drawn if isinstance(drawn, list) else [drawn]:
        _label(one, rows.obsm["X_umap"][marked], rows.obs_names[marked].tolist())
    return finish(drawn, show=shows(ax, show), return_fig=return_fig, save=save, name="umap")


def _umap(adata: AnnData, known: np.ndarray, vectors: np.ndarray, columns: list[str], k: int, seed: int) -> AnnData:
    """Genes × d with their UMAP."""
    import scanpy as sc
    from anndata import AnnData

    rows = AnnData(vectors.astype(np.float32), obs=adata.var.iloc[known][columns].copy())
    for column in columns:
        if f"{column}_colors" in adata.uns:
            rows.uns[f"{column}_colors"] = adata.uns[f"{column}_colors"]
    sc.pp.neighbors(rows, n_neighbors=min(k, len(known) - 1), use_rep="X", metric="cosine", random_state=seed)
    sc.tl.umap(rows, random_state=seed)
    return rows


def _label(ax: Axes, points: np.ndarray, names: list[str]) -> None:
    """Rings around the points, and their names beside them, moved up or down until none covers another."""
    if not names:
        return
    from matplotlib.patheffects import withStroke

    ax.scatter(points[:, 0], points[:, 1], s=28, facecolors="none", edgecolors="black", linewidths=0.9, zorder=6)
    height = 0.045 * np.diff(ax.get_ylim())[0]  # of a line of text
    (left, end), width = ax.get_xlim(), np.diff(ax.get_xlim())[0]
    centre = (left + end) / 2
    ax.set_xlim(left - 0.15 * width, end + 0.15 * width)  # room for names beside the outermost points
    for right in (False, True):
        side = np.flatnonzero((points[:, 0] > centre) == right)
        side = side[np.argsort(points[side, 1], kind="stable")]
        x = points[:, 0] + (0.05 if right else -0.05) * width
        for i, y in zip(side, spread(points[side, 1], height), strict=True):
            ax.annotate(
                names[i],
                points[i],
                (x[i], y),
                ha="left" if right else "right",
                va="center",
                fontsize="small",
                fontstyle="italic",
                path_effects=[withStroke(linewidth=2, foreground="white")],
                arrowprops={"arrowstyle": "-", "color": "0.3", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
                zorder=5,
            )
