from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._adata import keys
from scgeneformer._adata.perturbation.ranking_frame import ranking_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData


def rank_perturbations_df(
    adata: AnnData, group: str | Sequence[str] | None = None, *, key: str = keys.RANK_PERTURBATIONS
) -> pd.DataFrame:
    """Read the result of :func:`scgeneformer.tl.rank_perturbations` as a frame.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.rank_perturbations`.
    group
        One or several groups; None means all.
    key
        Key in `uns`.

    Returns
    -------
    DataFrame with a row per group and gene (or combination), sorted within a group as the test sorts, and those of
    these columns that the test has

    `group`, `names`
        Group, "all" where there was no `groupby`, and gene or combination.
    `effect`
        What the ranking is about: the shift beyond that of the null, the shift towards the goal, or the shift.
    `scores`, `pvals`, `pvals_adj`
        Statistic of the test, its p-value, and after Benjamini and Hochberg.
    `shift`, `null_shift`
        Mean shift of the perturbation and of its null.
    `placement`
        Mean share of nulls in the same cell with a smaller shift; 0.5 = as large as theirs.
    `sd`
        Standard deviation of the shift over cells.
    `impact`, `impact_share`
        1 if the perturbation is in the component of large shifts, and the share of its cells that are.
    `individual`, `anchor`, `sum`, `interaction`
        Mean shift of the gene alone, of the anchor alone, their sum, and the joint shift less it.
    `rank`
        Mean rank of the gene in the cells it is in.
    `n_cells`, `n_cells_null`, `n_null`, `n_replicates`
        Cells that the perturbation applies to, cells with a null, shifts in the null, replicates that count.
    `shift_to_<state>`, `pvals_to_<state>`, `pvals_adj_to_<state>`
        Mean shift towards each goal state, with its p-values.

    Raises
    ------
    MissingKeyError
        If there is no such result.
    DataError
        If there is no such group.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:12].copy()
    >>> gf.tl.perturb(adata, ["CD74", "FTL"], model="mini", positions="hold", n_matched=4)
    >>> gf.tl.rank_perturbations(adata, "geneformer_delete_hold", n_null=4)
    >>> gf.get.rank_perturbations_df(adata).columns.tolist()[:6]
    ['group', 'names', 'effect', 'scores', 'pvals', 'pvals_adj']
    """
    return ranking_frame(adata, group, key)
