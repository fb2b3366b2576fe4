"""Two-sided comparisons of groups of cells, each side made of replicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.groups import Groups, choose_groups, find_groups
from scgeneformer._checks import as_names, check_whole
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

REST, ALL = "rest", "all"


@dataclass(frozen=True, eq=False)
class Design:
    """Which groups are compared with what, and the replicates.

    Parameters
    ----------
    columns
        The columns of `obs` that define the groups.
    groups
        Names of the groups that are compared.
    reference
        Name of the group they are compared with, or "rest": all other cells.
    replicate
        Column of the replicates, or None for random splits.
    n_replicates
        Number of replicates, R.
    unit_of_cell
        Group × replicate of each cell, (n_obs,) int64, -1 for cells that are not needed. Unit ``i * R + r`` is
        replicate `r` of group `i`; behind the compared groups comes the reference, or all groups not asked for.
    """

    columns: list[str]
    groups: list[str]
    reference: str
    replicate: str | None
    n_replicates: int
    unit_of_cell: np.ndarray

    @property
    def n_units(self) -> int:
        """Number of units."""
        return (len(self.groups) + 1) * self.n_replicates

    def sides(self, by_unit: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each group the sums of each of its replicates, and of its reference, (n_replicates, ...) both."""
        by_group = by_unit.reshape(-1, self.n_replicates, *by_unit.shape[1:])
        total = by_group.sum(axis=0)
        for own in by_group[:-1]:
            yield own, total - own if self.reference == REST else by_group[-1]


def find_design(
    adata: AnnData,
    groupby: str | Sequence[str],
    groups: str | Sequence[str],
    reference: str,
    replicate: str | None,
    n_replicates: int,
    seed: int,
) -> Design:
    """Find groups, reference and replicates; say what is not as it should be.

    Raises
    ------
    MissingKeyError
        If a column does not exist.
    DataError
        If a group or the reference is none of the groups, they are the same, or one of them has too few replicates.
    """
    found = find_groups(adata, groupby)
    names, reference = _chosen(found, groups, reference)
    if replicate is None:
        check_whole(2, n_replicates=n_replicates)
        replicates = random_splits(adata, found, n_replicates, seed)
        logg.info(
            f"    replicates are {n_replicates} random splits of the cells of each group: cells, not donors, are then "
            "the unit of the test, and differences between donors count as differences between groups. "
            "replicate='<column of adata.obs>' names the donors."
        )
    else:
        donors = find_groups(adata, replicate, asked="replicate")
        replicates, n_replicates = donors.codes, len(donors.names)
    place = np.full(len(found.names) + 1, len(names) if reference == REST else -1)
    place[-1] = -1  # of cells without a label, whose code is -1
    if reference != REST:
        place[found.names.index(reference)] = len(names)
    for i, name in enumerate(names):
        place[found.names.index(name)] = i
    position = place[found.codes]
    unit = np.where((position < 0) | (replicates < 0), -1, position * n_replicates + replicates)
    design = Design(found.columns, names, reference, replicate, n_replicates, unit)
    _check_replicates(design)
    return design


def random_splits(adata: AnnData, groups: Groups, n_replicates: int, seed: int) -> np.ndarray:
    """Equal random parts of every group, the same whatever the order of the rows, (n_obs,); -1 without a group."""
    replicates = np.full(adata.n_obs, -1, dtype=np.int64)
    by_name = np.argsort(adata.obs_names.to_numpy(str), kind="stable")
    for code in range(len(groups.names)):
        cells = by_name[groups.codes[by_name] == code]
        shuffled = np.random.default_rng((seed, code)).permutation(cells)
        replicates[shuffled] = np.arange(len(cells)) % n_replicates
    return replicates


def _chosen(found: Groups, groups: str | Sequence[str], reference: str) -> tuple[list[str], str]:
    """Names of the groups to compare, and of the reference."""
    listed = ", ".join(map(repr, found.names))
    asked = as_names(groups)
    reference = str(reference)
    if reference != REST and reference not in found.names:
        raise DataError(f"reference={reference!r} is neither 'rest' nor a group; the groups are: {listed}.")
    if reference == REST and REST in found.names:
        raise DataError("A group is named 'rest', which as reference means all other cells. Rename the group.")
    others = [name for name in found.names if name != reference]
    names = others if asked == [ALL] else choose_groups(found.names, asked, "groups")
    if reference in names:
        raise DataError(
            f"reference={reference!r} is one of the groups to be compared with it, too. Leave it out of groups=[...]."
        )
    if not names or len(found.names) < 2:
        raise DataError(f"There is nothing to compare: the groups are {listed}. Name two different groups of cells.")
    return names, reference


def _check_replicates(design: Design) -> None:
    """Refuse if no group can be tested; warn of those that cannot."""
    units = design.unit_of_cell
    cells = np.bincount(units[units >= 0], minlength=design.n_units)
    n = [((own > 0).sum(), (other > 0).sum()) for own, other in design.sides(cells)]
    few = [name for name, both in zip(design.groups, n, strict=True) if min(both) < 2]
    if not few:
        return
    what = "cells" if design.replicate is None else f"values of {design.replicate!r}"
    if len(few) == len(design.groups):
        raise DataError(
            f"No group can be compared with {design.reference!r}: both sides need at least 2 replicates ({what}), and "
            f"there are {', '.join(f'{a} of {name!r} against {b}' for name, (a, b) in zip(few, n, strict=True))}."
        )
    logg.warning(f"not compared (NaN), with less than 2 replicates ({what}) on a side: {', '.join(map(repr, few))}")
