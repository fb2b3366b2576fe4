from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._adata import keys
from scgeneformer._adata.perturbation.ranking_frame import ranking_frame, read_ranking
from scgeneformer._checks import check_choice, check_positive, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer.pl._figure import axes_of, finish, shows
from scgeneformer.pl._perturbation_kinds import KINDS, Ranking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@shared_docs
def perturbation(
    adata: AnnData,
    groups: str | Sequence[str] | None = None,
    *,
    key: str = keys.RANK_PERTURBATIONS,
    kind: str = "ranking",
    genes: str | Sequence[str] | None = None,
    n_genes: int = 20,
    fdr: float = 0.05,
    cmap: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure | None:
    """Ranked perturbations: the first ones, a volcano, or genes × groups of cells.

    Each plot says below how much of the ranking the rank of the genes in the cells explains.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.rank_perturbations`.
    groups
        Group of cells, or several for "heatmap"; None means the only one, or all for "heatmap".
    key
        Key in `uns`.
    kind
        "ranking" draws effect and significance of the first `n_genes`; "volcano" effect against FDR, with the names of
        the first `n_genes` that are significant; "heatmap" the effect in each group, of the first of each group in
        turn, with a dot where it is significant.
    genes
        Genes to draw or to name in place of the first `n_genes`.
    n_genes
        Number of genes (or combinations) that are drawn or named.
    fdr
        Adjusted p-values below count as significant.
    cmap
        Color map; by default one for the kind and the sign of the effects.
    {axes}

    Returns
    -------
    Axes if ``show=False``, Figure if ``return_fig=True``, else None.

    Raises
    ------
    MissingKeyError
        If there is no such result.
    DataError
        If the kind, a group or a gene does not exist, one group must be named, or the test has no p-values, which a
        volcano needs, or `fdr` is no number up to 1.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> adata = adata[adata.obs["cell_type"] == "CD19+ B"][:12].copy()
    >>> genes = ["CD74", "CD79A", "HLA-DRA", "LTB"]
    >>> gf.tl.perturb(adata, genes, model="mini", positions="hold", n_matched=4)
    >>> gf.tl.rank_perturbations(adata, "geneformer_delete_hold", n_null=4)
    >>> gf.pl.perturbation(adata)
    """
    check_choice(KINDS, kind=kind)
    check_whole(n_genes=n_genes)
    check_positive(1, fdr=fdr)
    frame = ranking_frame(adata, groups, key).drop_duplicates(["group", "names"])
    frame = frame[frame["effect"].notna()]
    if "pvals" in frame and frame["pvals"].notna().any():
        frame = frame[frame["pvals"].notna()]  # those in too few cells are the most extreme
    present = frame["group"].unique()
    chosen = KINDS[kind]
    if len(present) > 1 and not chosen.many_groups:
        raise DataError(
            f"adata.uns[{key!r}] has several groups, and kind={kind!r} draws one: name it, groups='...', or "
            f"take kind='heatmap'. The groups are: {', '.join(map(repr, present))}."
        )
    if chosen.needs_pvalues and ("pvals_adj" not in frame or frame["pvals_adj"].isna().all()):
        raise DataError(f"adata.uns[{key!r}] has no p-values, which kind={kind!r} needs. Take kind='ranking'.")
    named = None if genes is None else [genes] if isinstance(genes, str) else list(dict.fromkeys(genes))
    if missing := [gene for gene in named or [] if gene not in set(frame["names"])]:
        raise DataError(f"genes={missing[:10]} are not in adata.uns[{key!r}], or have no effect there.")
    if frame.empty:
        raise DataError(f"No perturbation has an effect in adata.uns[{key!r}]: there is nothing to draw.")
    ranking = Ranking(frame, read_ranking(adata, key), n_genes, fdr, named, cmap)
    drawn = axes_of(ax, chosen.size(ranking))
    chosen.draw(drawn, ranking)
    return finish(drawn, show=shows(ax, show), return_fig=return_fig)
