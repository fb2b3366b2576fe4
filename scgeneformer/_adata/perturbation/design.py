"""What a ranking of perturbations compares: cells of which groups, replicates, and the null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.groups import choose_groups, find_groups
from scgeneformer._checks import as_names, check_choice, check_whole
from scgeneformer._engine.statistics.perturbation_tests import TESTS, Asked
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from scgeneformer._adata.perturbation.perturbed import Perturbed
    from scgeneformer._engine.statistics.shift_table import ShiftTable

ALL = "all"
DRAWN = ("rank", "random")  # nulls that are not named
NO_NULL = (
    "There is no null: no other genes were perturbed in the same cells{how}. Run gf.tl.perturb with n_matched=10, "
    "which adds genes of nearest rank, or with genes=None, which perturbs all; or name perturbed genes: null=[...]."
)


@dataclass(frozen=True, eq=False)
class Cells:
    """Group and replicate of every cell, in the order of the table of shifts.

    Parameters
    ----------
    names
        Names of the groups.
    columns
        Columns of `obs` that define them; None: all cells are one group.
    codes
        Group of each cell, (n_obs,) int64, -1 for none of them.
    replicates
        Replicate of each cell, (n_obs,) int64, -1 for none; None: cells are the unit.
    n_replicates
        Their number.
    """

    names: list[str]
    columns: np.ndarray | None
    codes: np.ndarray
    replicates: np.ndarray | None
    n_replicates: int


def find_cells(
    adata: AnnData,
    cell_order: np.ndarray,
    groupby: str | Sequence[str] | None,
    groups: str | Sequence[str],
    replicate: str | None,
) -> Cells:
    """Find groups and replicates.

    Raises
    ------
    MissingKeyError
        If a column does not exist.
    DataError
        If a group does not exist.
    """
    asked = as_names(groups)
    if groupby is None:
        if asked != [ALL]:
            raise DataError(f"groups={asked} names groups of no column. Name the column of adata.obs: groupby='...'.")
        names, columns, codes = [ALL], None, np.zeros(adata.n_obs, dtype=np.int64)
    else:
        found = find_groups(adata, groupby)
        names = choose_groups(found.names, None if asked == [ALL] else asked, "groups")
        place = np.array([names.index(name) if name in names else -1 for name in found.names] + [-1])
        columns, codes = np.array(found.columns, dtype=object), place[found.codes]
    replicates, n = None, 0
    if replicate is not None:
        donors = find_groups(adata, replicate, asked="replicate")
        replicates, n = donors.codes[cell_order], len(donors.names)
    return Cells(names, columns, codes[cell_order], replicates, n)


def find_null(read: Perturbed, null: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray, str]:
    """Perturbations that are tested, those that nulls are taken from, and how.

    Raises
    ------
    DataError
        If there is no null, or named ones do not exist.
    """
    if not isinstance(null, str) or null not in DRAWN:
        named = read.mask([null] if isinstance(null, str) else [str(name) for name in null])
        if not named.any():
            raise DataError("null=[] names no perturbation. Name some, or take null='rank' or null='random'.")
        if not (read.asked & ~named).any():
            raise DataError("All perturbations are in the null, and none is left to be tested. Name fewer: null=[...].")
        return read.asked & ~named, named, "given"
    if null == "rank" and not read.of_genes:
        raise DataError("null='rank': combinations have no rank. Take others, null='random', or name some, null=[...].")
    if not read.others.any() or (read.others.sum() == 1 and (read.others & read.asked).any()):
        raise DataError(NO_NULL.format(how=""))
    return read.asked, read.others, null


def tables(read: Perturbed, cells: Cells, asked: Asked) -> Iterator[ShiftTable]:
    """The shifts of each group.

    Raises
    ------
    DataError
        If no group has two cells, or replicates, with a shift.
    """
    table = read.table
    unit = np.arange(len(cells.codes)) if cells.replicates is None else cells.replicates
    there = (cells.codes >= 0) & (unit >= 0)
    rows = [there[table.cells] & (cells.codes[table.cells] == code) for code in range(len(cells.names))]
    tested = asked.tested[table.columns]
    n_units = [len(np.unique(unit[table.cells[some & tested]])) for some in rows]
    what = "cells" if cells.replicates is None else "replicates"
    few = [name for name, n in zip(cells.names, n_units, strict=True) if n < 2]
    if len(few) == len(cells.names):
        raise DataError(
            f"Nothing can be ranked: fewer than 2 {what} have a shift"
            + (f" in each of the groups {', '.join(map(repr, few))}." if cells.columns is not None else ".")
            + " Perturb genes that more cells contain, or take larger groups."
        )
    if few:
        listed = ", ".join(map(repr, few))
        logg.warning(f"fewer than 2 {what} have a shift in {listed}: what is told of them rests on one, if on any")
    return (table.where(some) for some in rows)


def check_test(test: str, n_null: int, min_cells: int, seed: int, state: str | None, replicate: str | None) -> None:
    """Refuse parameters that have no meaning."""
    check_choice(TESTS, test=test)
    check_whole(2, n_null=n_null)  # one before and one behind the gene in rank
    check_whole(min_cells=min_cells)
    check_whole(0, seed=seed)
    if state is not None and TESTS[test].needs == "goal":
        raise DataError(f"state={state!r} has no meaning for test={test!r}, which has all states. Leave it out.")
    if replicate is not None and not TESTS[test].has_pvalues:
        raise DataError(
            f"replicate={replicate!r} has no meaning for test={test!r}, which has no p-value. For numbers of each "
            f"replicate take groupby={replicate!r}."
        )
