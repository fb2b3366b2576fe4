"""Statistics over perturbations: one function per question, all from a :class:`ShiftTable`, in one table of tests.

    vs_null           is the shift larger than that of other perturbations of the same cells?
    vs_null_unpaired  the same, cells ignored: the gene's shifts against those of the null, rank-sum
    goal              does it move cells towards a state more than perturbations do in general?
    mixture           which perturbations are in the component of large shifts?
    mean              mean and scatter

Each gives arrays over the perturbations, (n_columns,) or (n_columns, n_states). The unit of a test is the cell, or,
with replicates, the replicate (donor): the mean over its cells is then one observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import spearmanr

from scgeneformer._engine.statistics.mixture import mixture
from scgeneformer._engine.statistics.null_perturbations import NULLS, compare_within_cells
from scgeneformer._engine.statistics.rank_tests import RankSum, adjust, one_sample_t, signed_rank
from scgeneformer._engine.statistics.shift_table import group_means

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scgeneformer._engine.statistics.shift_table import ShiftTable

    Found = dict[str, np.ndarray]

POOL = 100_000  # shifts of all genes that a rank-sum test is made against, at most
FLOOR = 0.25  # least variance between replicates, in units of that of chance
BLOCK = 2**20  # rows of the table whose nulls are held at a time


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of the shifts.

    Parameters
    ----------
    tested
        Perturbations that are tested, (n_columns,) bool.
    null
        Perturbations that nulls are taken from, (n_columns,) bool.
    kind
        How: a key of :data:`null_perturbations.NULLS`.
    n_null
        Nulls of each cell and perturbation at most.
    min_cells
        Cells, of each replicate if there are any, that a perturbation must apply to.
    seed
        Of what is drawn.
    goal
        Which of the states is the goal.
    replicates
        Replicate of each cell, -1 for none, (n_cells,); None: cells are the unit.
    n_replicates
        Number of replicates.
    """

    tested: np.ndarray
    null: np.ndarray
    kind: str = "rank"
    n_null: int = 10
    min_cells: int = 3
    seed: int = 0
    goal: int = 0
    replicates: np.ndarray | None = None
    n_replicates: int = 0

    def by_replicate(self, table: ShiftTable, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean of some values of the rows over the cells of each replicate, NaN with too few cells, and their number.

        Both are (n_columns, n_replicates).
        """
        assert self.replicates is not None
        place = table.columns * self.n_replicates + self.replicates[table.cells]
        size = table.n_columns * self.n_replicates
        means, n = group_means(place, values, size), np.bincount(place, minlength=size)
        means[n < max(1, self.min_cells)] = np.nan
        return means.reshape(-1, self.n_replicates), n.reshape(-1, self.n_replicates)

    def means(self, table: ShiftTable, values: np.ndarray) -> np.ndarray:
        """Mean of the values of each perturbation over cells, or over the means of replicates."""
        if self.replicates is None:
            return table.means(values)
        return nanmean(self.by_replicate(table, values)[0])


@dataclass(frozen=True)
class Test:
    """One entry of the table of tests.

    Parameters
    ----------
    run
        From the shifts and what is asked to arrays over the perturbations.
    order
        Order of the perturbations, from these arrays.
    needs
        "null", "goal", "parts" or nothing.
    has_pvalues
        Whether there are p-values, and so a use for replicates.
    """

    run: Callable[[ShiftTable, Asked], Found]
    order: Callable[[Found], np.ndarray]
    needs: str = ""
    has_pvalues: bool = True


def nanmean(values: np.ndarray) -> np.ndarray:
    """Mean of what is not NaN in each row; NaN where nothing is."""
    n = (~np.isnan(values)).sum(axis=1)
    return np.where(n > 0, np.nansum(values, axis=1) / np.maximum(n, 1), np.nan)


def rank_correlation(effect: np.ndarray, ranks: np.ndarray) -> float:
    """Spearman correlation of the effect of perturbations with their mean rank; NaN below three of them."""
    both = ~(np.isnan(effect) | np.isnan(ranks))
    if both.sum() < 3 or len(np.unique(effect[both])) < 2 or len(np.unique(ranks[both])) < 2:
        return np.nan
    return float(spearmanr(effect[both], ranks[both]).statistic)


def _overall(table: ShiftTable) -> Found:
    return {"shift": table.means(table.values), "n_cells": table.n_cells, "rank": table.mean_ranks}


def vs_null(table: ShiftTable, asked: Asked) -> Found:
    """Compare within cells: effect = mean over cells of (shift − mean shift of the nulls), p from the placements.

    Over cells: signed-rank test of the placements U. Over replicates: Student's test of their mean placements; the
    variance between replicates counts as at least a quarter of what chance placements alone give, so that it is not
    none where all placements are at the limit.
    """
    tested, null = table.where(asked.tested[table.columns]), table.where(asked.null[table.columns])
    nulls = compare_within_cells(tested, null, asked.kind, asked.n_null, asked.seed)
    found, kept = _overall(tested), nulls.n > 0
    placed, u, m = tested.where(kept), nulls.placement[kept], nulls.n[kept]
    found["effect"] = asked.means(placed, placed.values - nulls.mean[kept])
    found["null_shift"] = asked.means(placed, nulls.mean[kept])
    found["placement"] = asked.means(placed, u) + 0.5
    found["n_cells_null"] = placed.n_cells
    if asked.replicates is None:
        found["scores"], found["pvals"] = signed_rank(placed.columns, u, table.n_columns)
        _too_few(found, placed.n_cells < asked.min_cells)
    else:
        means, n = asked.by_replicate(placed, u)
        chance, _ = asked.by_replicate(placed, (m + 2) / (12 * m))
        floor = FLOOR * np.nan_to_num(nanmean(chance / np.maximum(n, 1)))
        found["scores"], found["pvals"], found["n_replicates"] = one_sample_t(means, floor)
    found["pvals_adj"] = adjust(found["pvals"])
    return found


def vs_null_unpaired(table: ShiftTable, asked: Asked) -> Found:
    """Compare without regard to cells: effect = mean shift − mean shift of the nulls, rank-sum test.

    "given" nulls are taken in all cells, whether or not the gene is in them. A p-value that cannot be computed, because
    all shifts are the same, is 1.
    """
    tested, null = table.where(asked.tested[table.columns]), table.where(asked.null[table.columns])
    found, n = _overall(tested), table.n_columns
    found["null_shift"], found["scores"], found["pvals"] = np.full((3, n), np.nan)
    found["n_null"] = np.zeros(n, dtype=np.int64)
    differences = np.full((n, asked.n_replicates), np.nan)
    for column, own, others in _pools(tested, null, asked):
        found["n_null"][column] = len(others)
        if not len(others):
            continue
        found["null_shift"][column] = others.values.mean()
        if asked.replicates is None:
            z, p = RankSum(others.values).test(own.values)
            found["scores"][column], found["pvals"][column] = z, 1.0 if np.isnan(p) else p
        else:
            sides = [_replicate_means(asked, side) for side in (own, others)]
            differences[column] = sides[0] - sides[1]
    if asked.replicates is None:
        found["effect"] = found["shift"] - found["null_shift"]
        _too_few(found, found["n_cells"] < asked.min_cells)
    else:
        found["effect"] = nanmean(differences)
        found["scores"], found["pvals"], found["n_replicates"] = one_sample_t(differences)
    found["pvals_adj"] = adjust(found["pvals"])
    return found


def _pools(tested: ShiftTable, null: ShiftTable, asked: Asked) -> Iterator[tuple[int, ShiftTable, ShiftTable]]:
    """Of each perturbation its rows and those of its nulls."""
    starts = tested.starts
    columns = np.flatnonzero(np.diff(starts))
    if asked.kind == "given":
        for column in columns.tolist():
            yield column, tested.where(slice(starts[column], starts[column + 1])), null
        return
    for some in np.split(columns, np.flatnonzero(np.diff(starts[columns] // BLOCK)) + 1) if len(columns) else []:
        block = tested.where(slice(starts[some[0]], starts[some[-1] + 1]))
        rounds = list(NULLS[asked.kind](block, null, asked.n_null, asked.seed))
        of = np.concatenate([block.columns[rows] for rows, _ in rounds] or [np.empty(0, dtype=np.int64)])
        partners = np.concatenate([partners for _, partners in rounds] or [np.empty(0, dtype=np.int64)])
        partners = partners[np.argsort(of, kind="stable")]
        ends = np.cumsum(np.bincount(of, minlength=tested.n_columns))
        for column in some.tolist():
            own = tested.where(slice(starts[column], starts[column + 1]))
            yield column, own, null.where(partners[ends[column - 1] if column else 0 : ends[column]])


def _replicate_means(asked: Asked, rows: ShiftTable, values: np.ndarray | None = None) -> np.ndarray:
    """Mean over all rows of each replicate, (n_replicates,)."""
    assert asked.replicates is not None
    codes = asked.replicates[rows.cells]
    means = group_means(codes, rows.values if values is None else values, asked.n_replicates)
    means[np.bincount(codes, minlength=asked.n_replicates) < asked.min_cells] = np.nan
    return means


def goal(table: ShiftTable, asked: Asked) -> Found:
    """Shifts towards each state against those of all perturbations together, rank-sum test.

    At most 100,000 of the latter, drawn once. Of a single perturbation there are only means. Over replicates: Student's
    test of the perturbation's mean less the mean of all, paired by replicate.
    """
    everything = asked.tested | asked.null
    tested, together = table.where(asked.tested[table.columns]), table.where(everything[table.columns])
    found, alone = _overall(tested), everything.sum() < 2
    shape = (table.n_columns, tested.states.shape[1])
    effects, scores, pvals = (np.full(shape, np.nan) for _ in range(3))
    starts = tested.starts
    for state, shifts in enumerate(tested.states.T):
        effects[:, state] = asked.means(tested, shifts)
        if alone:
            continue
        if asked.replicates is None:
            # drawn from the sorted shifts, so that the order of the cells is without effect
            pool = np.sort(together.states[:, state])
            if len(pool) > POOL:
                pool = np.random.default_rng(asked.seed).choice(pool, POOL, replace=False)
            test = RankSum(pool).test
            for column in np.flatnonzero(found["n_cells"] >= max(1, asked.min_cells)):
                scores[column, state], pvals[column, state] = test(shifts[starts[column] : starts[column + 1]])
        else:
            means, _ = asked.by_replicate(tested, shifts)
            of_all = _replicate_means(asked, together, together.states[:, state])
            scores[:, state], pvals[:, state], found["n_replicates"] = one_sample_t(means - of_all)
    found |= {"state_effects": effects, "state_pvals": pvals}
    found["state_pvals_adj"] = np.column_stack([adjust(column) for column in pvals.T])
    one = {"effect": effects, "scores": scores, "pvals": pvals, "pvals_adj": found["state_pvals_adj"]}
    return found | {name: values[:, asked.goal] for name, values in one.items()}


def mean(table: ShiftTable, asked: Asked) -> Found:
    """Mean, standard deviation (``ddof=1``) and number of cells; with too few cells no effect."""
    tested = table.where(asked.tested[table.columns])
    found = _overall(tested)
    effect = np.where(found["n_cells"] < asked.min_cells, np.nan, found["shift"])
    return found | {"effect": effect, "sd": tested.sds(tested.values)}


def _mixture(table: ShiftTable, asked: Asked) -> Found:
    tested = table.where(asked.tested[table.columns])
    return _overall(tested) | mixture(tested, asked.min_cells)


def _too_few(found: Found, few: np.ndarray) -> None:
    """No test with too few cells."""
    for name in ("scores", "pvals"):
        found[name] = np.where(few, np.nan, found[name])


def _by_pvalue(found: Found) -> np.ndarray:
    """Smallest p-value first, then the largest score in size: many p-values are 0 in floating point."""
    return np.lexsort((-found["shift"], -np.abs(found["scores"]), found["pvals"]))


def _by_significance(found: Found) -> np.ndarray:
    """Significant ones first, then by shift towards the goal, then by FDR."""
    return np.lexsort((found["pvals_adj"], -found["effect"], ~(found["pvals_adj"] < 0.05)))


def _by_impact(found: Found) -> np.ndarray:
    return np.lexsort((-found["effect"], -np.nan_to_num(found["impact"], nan=-1.0)))


def _by_effect(found: Found) -> np.ndarray:
    return np.argsort(-found["effect"], kind="stable")


TESTS: dict[str, Test] = {
    "vs_null": Test(vs_null, _by_pvalue, needs="null"),
    "vs_null_unpaired": Test(vs_null_unpaired, _by_pvalue, needs="null"),
    "goal": Test(goal, _by_significance, needs="goal"),
    "mixture": Test(_mixture, _by_impact, needs="parts", has_pvalues=False),
    "mean": Test(mean, _by_effect, has_pvalues=False),
}
