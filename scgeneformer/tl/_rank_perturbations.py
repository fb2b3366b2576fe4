from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.perturbation.design import ALL, NO_NULL, check_test, find_cells, find_null, tables
from scgeneformer._adata.perturbation.perturbed import perturbation_key, read_perturbed
from scgeneformer._adata.perturbation.ranking_frame import to_uns
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._docs import shared_docs
from scgeneformer._engine.statistics.perturbation_tests import TESTS, Asked, rank_correlation
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._adata.perturbation.design import Cells
    from scgeneformer._engine.statistics.perturbation_tests import Test

GOAL = 1  # the states are start, goal, alternatives
STRONG = 0.7  # size of the correlation of effect and rank above which there is a warning
FEW = 20  # perturbations below which such a correlation may well be chance
BY_RANK = " test='vs_null' with null='rank' compares with genes of the same rank."
HOLD = " positions='hold' in gf.tl.perturb takes the shift of positions out of the effect."


@shared_docs
def rank_perturbations(
    adata: AnnData,
    key: str | None = None,
    *,
    test: str = "vs_null",
    null: str | Sequence[str] = "rank",
    n_null: int = 10,
    state: str | None = None,
    combinations: bool = False,
    groupby: str | Sequence[str] | None = None,
    groups: str | Sequence[str] = ALL,
    replicate: str | None = None,
    min_cells: int = 3,
    seed: int = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    r"""Rank perturbations by how far they move cells, with tests against a null.

    Nothing is run through a model: all follows from the shifts that :func:`perturb` stored. What each test asks, what
    it assumes and how far its p-values can be trusted is in the guide to the statistics of perturbations.

    Parameters
    ----------
    adata
        After :func:`perturb`.
    key
        Its key: "geneformer_delete", "geneformer_delete_hold", ...; None takes the first, or the only one there is.
    test
        "vs_null" compares each shift with those of other perturbations of the same cell; "vs_null_unpaired" does so
        without regard to cells; "goal" tests shifts towards the goal states; "mixture" finds the component of large
        shifts; "mean" gives mean and scatter.
    null
        For the first two, which perturbations of the cell make the null: "rank", those nearest in rank, half of them
        before and half behind the gene; "random", any others; or the names of genes or combinations. If :func:`perturb`
        was asked for some genes, they are never nulls of each other; ``n_matched=10`` there adds others.
    n_null
        Perturbations in the null of each cell and gene, at most; without effect for a list.
    state
        Name of a goal state: rank by the shifts towards it in place of those of the cell. Not for "goal", which has
        them all.
    combinations
        Rank combinations of genes rather than single genes; so done by itself where there are no others.
    groupby
        One or several columns of ``adata.obs``: a ranking in each group of cells. None takes all cells as one group.
    groups
        Names of the groups, or "all".
    replicate
        Column of ``adata.obs`` with the independent samples, such as donors. Their means are then what is tested, and
        p-values speak of other donors. None takes cells as independent, which those of one donor are not.
    min_cells
        Cells that a perturbation must apply to for being tested; with `replicate` in a replicate for it to count.
    seed
        Of the random nulls, and of the shifts drawn for "goal".
    key_added
        Key instead of "rank_perturbations".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets ``adata.uns['rank_perturbations' | key_added]``, a dict that
    `gf.get.rank_perturbations_df` reads as a frame. Arrays are (n_names, n_groups) over the genes or combinations, each
    column sorted: by p-value and size of the score (vs_null, vs_null_unpaired), by significance at 0.05, effect and FDR
    (goal), by component and effect (mixture) or by effect (mean). Which there are depends on the test:

    `'names'` : str
        Genes or combinations.
    `'effect'` : float64
        vs_null: mean over cells of the shift less the mean shift of its nulls in the same cell. vs_null_unpaired: mean
        shift less the mean of all nulls. goal: mean shift towards the goal. mixture, mean: mean shift. With `replicate`
        means of the means of replicates.
    `'scores'`, `'pvals'`, `'pvals_adj'` : float64
        Statistic of the test, two-sided p-value, Benjamini-Hochberg adjustment within the group. All but mixture, mean.
    `'shift'`, `'rank'` : float64
        Mean shift, and mean rank of the gene in the cells it is in.
    `'n_cells'` : int64
        Cells that the perturbation applies to.
    `'null_shift'`, `'placement'` : float64; `'n_cells_null'`, `'n_null'` : int64
        Mean shift of the nulls, mean share of them with a smaller shift (0.5 = like them) and number of cells that have
        nulls (vs_null), or number of null shifts (vs_null_unpaired).
    `'state_effects'`, `'state_pvals'`, `'state_pvals_adj'` : float64 (n_names, n_groups, n_states)
        Of each of the `'states'` (goal).
    `'impact'`, `'impact_share'` : float64
        1 if the mean is in the component of large shifts, and the share of cells that are (mixture).
    `'individual'`, `'anchor'`, `'sum'`, `'interaction'` : float64
        With an anchor gene: mean shift of the gene alone, of the anchor alone, their sum, and the joint shift less the
        sum (mixture).
    `'sd'` : float64
        Standard deviation over cells, ``ddof=1`` (mean).
    `'n_replicates'` : int64
        Replicates that count (with `replicate`).
    `'rank_correlation'` : float64 (n_groups,)
        Spearman correlation of effect and mean rank over genes; NaN for combinations.
    `'groups'`, `'states'` : str
        Names of the groups, and of the states (goal), in the order of the axes.
    `'params'` : dict
        All that the numbers depend on.

    What cannot be tested has NaN. Genes that share a token share its result and count as one.

    Raises
    ------
    MissingKeyError
        If there are no shifts under `key`, no goal states, or no such column of ``adata.obs``.
    DataError
        If a parameter has no meaning, a group or a gene of the null does not exist, there is no null, or fewer than
        two cells. Nothing is written then.

    Notes
    -----
    Of m nulls of a shift in a cell, the placement is
    :math:`U = (\#\{null < shift\} + \#\{null = shift\} / 2) / m - 1/2`. "vs_null" is Wilcoxon's signed-rank test of the
    placements over cells, or Student's test over their means in replicates. Shifts that depend on the rank alone,
    rising or falling, have :math:`U = 0`. The other tests are those of the reference Geneformer's statistics.

    See Also
    --------
    perturb : computes the shifts.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:12].copy()
    >>> gf.tl.perturb(adata, ["CD74", "FTL"], model="mini", positions="hold", n_matched=4)
    >>> gf.tl.rank_perturbations(adata, "geneformer_delete_hold", n_null=4)
    >>> sorted(gf.get.rank_perturbations_df(adata)["names"])
    ['CD74', 'FTL']
    """
    target = target_of(adata, copy, key_added)
    check_test(test, n_null, min_cells, seed, state, replicate)
    key, chosen = perturbation_key(adata, key), TESTS[test]
    read = read_perturbed(
        adata,
        key,
        combinations=combinations,
        state=state,
        with_states=chosen.needs == "goal",
        with_parts=chosen.needs == "parts",
    )
    cells = find_cells(adata, read.cell_order, groupby, groups, replicate)
    tested, others, kind = find_null(read, null) if chosen.needs == "null" else (read.asked, read.others, "")
    asked = Asked(tested, others, kind, n_null, min_cells, seed, GOAL, cells.replicates, cells.n_replicates)
    start = logg.info(f"ranking {int(tested.sum())} perturbations of {key!r} in {_count(cells)}")
    found = [chosen.run(table, asked) for table in tables(read, cells, asked)]
    correlations = [rank_correlation(one["effect"], one["rank"]) for one in found]
    _say(found, cells, chosen, kind)
    followed = {BY_RANK: (test, kind) == ("vs_null", "rank"), HOLD: read.params.get("positions") == "hold"}
    _warn_of_rank(found, cells, correlations, "".join(one for one, done in followed.items() if not done))
    listed = tested[read.slots]
    orders = [chosen.order(one) for one in found]
    stored = to_uns(found, orders, cells.names, read.names[listed], read.slots[listed], correlations)
    if chosen.needs == "goal":
        stored["states"] = np.array(read.states, dtype=object)
    params = {"key": key, "test": test, "combinations": not read.of_genes, "min_cells": min_cells, "seed": seed}
    if kind:
        params |= {"n_null": n_null, "null": null if isinstance(null, str) else np.array(list(null), dtype=object)}
    optional = {"state": state, "replicate": replicate, "groupby": cells.columns}
    params |= {name: value for name, value in optional.items() if value is not None}
    results = Results(
        uns={key_added or keys.RANK_PERTURBATIONS: {"params": params, "perturbation": read.params, **stored}}
    )
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _count(cells: Cells) -> str:
    return "all cells" if cells.columns is None else f"{len(cells.names)} groups of cells"


def _say(found: list[dict[str, np.ndarray]], cells: Cells, test: Test, kind: str) -> None:
    """Refuse if nothing has a null; tell what was found, and what the unit is."""
    n_null = [one.get("n_cells_null", one.get("n_null")) for one in found]
    if kind and not any(n.any() for n in n_null if n is not None):
        raise DataError(NO_NULL.format(how=" at ranks before and behind the gene" if kind == "rank" else ""))
    if test.has_pvalues and cells.replicates is None:
        logg.info(
            "    the unit of the test is the cell: cells of one donor are not independent, and p-values do not speak "
            "of other donors. replicate='<column of adata.obs>' names the donors."
        )
    if test.has_pvalues:
        for name, one in zip(cells.names, found, strict=True):
            n, few = int((~np.isnan(one["pvals"])).sum()), int((one["pvals_adj"] < 0.05).sum())
            logg.info(f"    {name!r}: {n} perturbations tested, {few} with FDR < 0.05")


def _warn_of_rank(found: list[dict[str, np.ndarray]], cells: Cells, correlations: list[float], advice: str) -> None:
    """Warn of rankings that are those by rank, and say what was not done against it."""
    for name, one, rho in zip(cells.names, found, correlations, strict=True):
        if abs(rho) > STRONG and int((~np.isnan(one["effect"])).sum()) >= FEW:
            logg.warning(
                f"{name!r}: the Spearman correlation of the effect with the rank of the gene is {rho:.2f}: the rank "
                f"explains most of this ranking.{advice}"
            )
