"""The perturbations of the same cell that one perturbation is compared with.

Three ways to choose them, each a generator over rounds; a round gives every row of the tested table at most one row of
the null table, of the same cell and another gene:

    rank    the nearest in rank, as many before as behind. Where fewer than `n_null / 2` genes are on one side, only as
            many are taken on the other: otherwise the first gene of a cell would be compared with later ones only, and
            the rank alone would decide. The very first and last gene of a cell have none. Genes that are not in the
            cell (rank 0) are compared with others that are not, drawn at random.
    random  `n_null` drawn at random, without replacement
    given   all of them

Of m null shifts, the placement of a shift s is

    U = (number below s + half the number equal to s) / m − 1/2

If s is exchangeable with its nulls, 2 m U is uniform on −m, −m + 2, …, m: symmetric about 0 with variance
(m + 2) / (12 m), whatever the distribution of shifts. (s − mean of the nulls is not symmetric, because shifts are
skewed; a signed-rank test of it has false positives.) If shifts are any monotone function of the rank and the nulls lie
evenly on both sides, U is 0: the rank alone cannot make a gene significant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scgeneformer._engine.statistics.shift_table import ShiftTable

    Rounds = Iterator[tuple[np.ndarray, np.ndarray]]  # rows of the tested table, rows of the null table


@dataclass(frozen=True, eq=False)
class Nulls:
    """What the nulls of each tested row are, (n,) each.

    Parameters
    ----------
    placement
        U; NaN where there is no null.
    mean
        Mean shift of the nulls; NaN where there is none.
    n
        Their number.
    """

    placement: np.ndarray
    mean: np.ndarray
    n: np.ndarray


def compare_within_cells(tested: ShiftTable, null: ShiftTable, kind: str, n_null: int, seed: int) -> Nulls:
    """Place each shift among its nulls.

    Parameters
    ----------
    tested, null
        Rows to be placed, and rows to choose from; a row may be in both.
    kind
        A key of :data:`NULLS`.
    n_null
        Nulls of each row at most; without effect for "given".
    seed
        Of random choices.
    """
    below, total = np.zeros(len(tested)), np.zeros(len(tested))
    n = np.zeros(len(tested), dtype=np.int64)
    for rows, partners in NULLS[kind](tested, null, n_null, seed):
        shifts, others = tested.values[rows], null.values[partners]
        below[rows] += (others < shifts) + 0.5 * (others == shifts)
        total[rows] += others
        n[rows] += 1
    some = np.where(n > 0, n, np.nan)
    # one division of whole numbers: placements of opposite sign are then exactly opposite, and tie in a signed rank
    return Nulls((2 * below - n) / (2 * some), total / some, n)


def nearest_in_rank(tested: ShiftTable, null: ShiftTable, n_null: int, seed: int) -> Rounds:
    """Rounds of "rank"."""
    ranked = np.flatnonzero(null.ranks > 0)
    base = 1 + max(int(tested.ranks.max(initial=0)), int(null.ranks.max(initial=0)))
    position = null.cells[ranked] * base + null.ranks[ranked]
    order = np.argsort(position, kind="stable")
    ranked, position = ranked[order], position[order]
    rows = np.flatnonzero(tested.ranks > 0)
    cell = tested.cells[rows] * base
    own = cell + tested.ranks[rows]
    before, behind = np.searchsorted(position, own, "left"), np.searchsorted(position, own, "right")
    n_before = before - np.searchsorted(position, cell, "left")
    n_behind = np.searchsorted(position, cell + base, "left") - behind
    both = np.minimum(np.minimum(n_before, n_behind), n_null // 2)
    for j in range(n_null // 2):
        there = np.flatnonzero(both > j)
        yield rows[there], ranked[before[there] - 1 - j]
        yield rows[there], ranked[behind[there] + j]
    absent, absent_null = np.flatnonzero(tested.ranks == 0), np.flatnonzero(null.ranks == 0)
    for some, partners in drawn(tested.where(absent), null.where(absent_null), n_null, seed):
        yield absent[some], absent_null[partners]


def drawn(tested: ShiftTable, null: ShiftTable, n_null: int, seed: int) -> Rounds:
    """Rounds of "random": the null rows of each cell in random order; each row takes those behind itself, in a circle.

    That is a simple random sample for every single row. A row that is not among the null rows begins anywhere.
    """
    if not len(tested) or not len(null):
        return
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(null)), null.cells))
    n_cells = 1 + max(int(tested.cells.max()), int(null.cells.max()))
    sizes = np.bincount(null.cells, minlength=n_cells)
    starts = np.cumsum(sizes) - sizes
    size, start = sizes[tested.cells], starts[tested.cells]
    first = np.floor(rng.random(len(tested)) * size).astype(np.int64)
    place = np.empty(len(null), dtype=np.int64)
    place[order] = np.arange(len(null)) - starts[null.cells[order]]
    itself = _same_row(tested, null)
    among = itself >= 0
    first[among] = place[itself[among]] + 1
    many = np.minimum(size - among, n_null)
    for j in range(int(many.max(initial=0))):
        there = np.flatnonzero(many > j)
        yield there, order[start[there] + (first[there] + j) % size[there]]


def every(tested: ShiftTable, null: ShiftTable, n_null: int, seed: int) -> Rounds:
    """Rounds of "given"."""
    return drawn(tested, null, null.n_columns, seed)


def _same_row(tested: ShiftTable, null: ShiftTable) -> np.ndarray:
    """Row of `null` with the cell and perturbation of each row of `tested`, -1 where there is none."""
    base = 1 + max(int(tested.cells.max()), int(null.cells.max()))
    own, others = tested.columns * base + tested.cells, null.columns * base + null.cells  # ascending, as the tables are
    at = np.minimum(np.searchsorted(others, own), len(others) - 1)
    return np.where(others[at] == own, at, -1)


NULLS: dict[str, Callable[[ShiftTable, ShiftTable, int, int], Rounds]] = {
    "rank": nearest_in_rank,
    "random": drawn,
    "given": every,
}
