"""What `gf.tl.perturb` stored, as a table of shifts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._engine.statistics.shift_table import ShiftTable, distinct_columns
from scgeneformer._errors import DataError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class Perturbed:
    """Shifts of all cells, with the names that belong to them.

    Parameters
    ----------
    slot
        "layers" (genes) or "obsm" (combinations).
    table
        Cells are counted in the order of their names, so that nothing depends on the order of the rows.
    cell_order
        Row of `adata` of each cell of the table, (n_obs,).
    names
        Names of genes or combinations that have a result, (n_names,).
    slots
        Perturbation of each in the table, (n_names,): genes that share a token share one.
    asked
        Perturbations that the user named, all where none were; without the anchor, (n_columns,) bool.
    others
        Perturbations that nulls can be taken from: those not named, all where none were, (n_columns,) bool.
    states
        Start, goal, alternatives; empty if there are none.
    params
        Those of `gf.tl.perturb`.
    """

    slot: str
    table: ShiftTable
    cell_order: np.ndarray
    names: np.ndarray
    slots: np.ndarray
    asked: np.ndarray
    others: np.ndarray
    states: list[str]
    params: dict[str, Any]

    @property
    def of_genes(self) -> bool:
        """Whether these are perturbations of single genes, which have a rank, and not combinations."""
        return self.slot == "layers"

    def mask(self, names: Sequence[str]) -> np.ndarray:
        """Perturbations with these names, (n_columns,) bool.

        Raises
        ------
        DataError
            If there are none of these names.
        """
        if missing := [name for name in names if name not in set(self.names)]:
            raise DataError(
                f"null={missing[:10]} were not perturbed; names that were: {_some(self.names.tolist())}. "
                "Name some of those, or take null='rank' or null='random'."
            )
        chosen = np.zeros(self.table.n_columns, dtype=bool)
        chosen[self.slots[np.isin(self.names, list(names))]] = True
        return chosen


def perturbation_key(adata: AnnData, key: str | None, part: str = "params") -> str:
    """Key of the perturbation that is meant, among those of which a part, such as "effects", is stored."""
    stored = [(name, one) for name, one in adata.uns.items() if isinstance(one, Mapping) and part in one]
    return keys.chosen(key, keys.PERTURBATION, [name for name, one in stored if "mode" in one.get("params", {})])


def read_perturbed(
    adata: AnnData,
    key: str,
    *,
    combinations: bool = False,
    state: str | None = None,
    with_states: bool = False,
    with_parts: bool = False,
) -> Perturbed:
    """Read shifts from `layers` (genes) or `obsm` (combinations).

    Parameters
    ----------
    adata
        After `gf.tl.perturb`.
    key
        Its key.
    combinations
        Read combinations; also done if there is nothing else.
    state
        Shifts towards this state in place of those of the cell.
    with_states
        Also the shifts towards all states.
    with_parts
        Also the shifts of gene and anchor alone, if an anchor was given.

    Raises
    ------
    MissingKeyError
        If there are no such shifts, ranks or states.
    DataError
        If shifts and ranks do not belong together.
    """
    about = dict(adata.uns.get(key, {}))
    slot = _slot(adata, key, combinations)
    states = [str(name) for name in about.get("states", [])]
    state_keys = [str(name) for name in about.get("state_keys", [])]
    if (with_states or state is not None) and not states:
        raise MissingKeyError(f"adata.uns[{key!r}] holds no goal states. Run gf.tl.perturb again with goal={{...}}.")
    if state is not None and state not in states:
        raise DataError(f"state={state!r} does not exist; the states are: {', '.join(map(repr, states))}.")
    values = key if state is None else state_keys[states.index(state)]
    extra = state_keys if with_states else []
    cell_order = np.argsort(adata.obs_names.to_numpy(str), kind="stable")
    read = _read_layers if slot == "layers" else _read_obsm
    table, rows, slots = read(adata, key, [values, *extra], cell_order)
    names = np.array(adata.var_names if slot == "layers" else about["combinations"]).astype(str)[rows]
    params = dict(about.get("params", {}))
    anchor = np.isin(names, [str(params.get("anchor", ""))]) & (slot == "layers")
    if with_parts and "anchor" in params and slot == "layers":
        table = _with_parts(adata, key, table, rows, slots, str(params["anchor"]), cell_order)
    named = np.isin(names, [str(name) for name in about.get("genes", [])])
    no_list = slot == "obsm" or "genes" not in about

    def columns(chosen: np.ndarray) -> np.ndarray:
        found = np.zeros(table.n_columns, dtype=bool)
        found[slots[chosen]] = True
        found[slots[anchor]] = False
        return found

    every = columns(np.ones(len(names), dtype=bool))
    asked = every if no_list else columns(named)
    others = every if no_list else every & ~asked
    return Perturbed(slot, table, cell_order, names, slots, asked, others, states, params)


def _slot(adata: AnnData, key: str, combinations: bool) -> str:
    """Where the shifts are."""
    has_layer, has_obsm = key in adata.layers, key in adata.obsm and "combinations" in adata.uns.get(key, {})
    if has_layer and not combinations:
        return "layers"
    if has_obsm:
        return "obsm"
    what = "combinations of genes" if combinations else "perturbations"
    stored = [k for k, v in adata.uns.items() if isinstance(v, dict) and (k in adata.layers or "combinations" in v)]
    there = ", ".join(map(repr, stored)) or "none"
    raise MissingKeyError(
        f"There are no {what} under the key {key!r}; there are: {there}. Run gf.tl.perturb(adata) first."
    )


def _read_layers(
    adata: AnnData, key: str, value_keys: list[str], cell_order: np.ndarray
) -> tuple[ShiftTable, np.ndarray, np.ndarray]:
    """Table of single genes, and of each gene with a result its row in `var` and its column in the table."""
    rank_key = keys.rank_key(key)
    csc = {name: _columns(adata, name, cell_order) for name in dict.fromkeys([*value_keys, key, rank_key])}
    own = csc[key]
    for name, matrix in csc.items():
        if not (np.array_equal(matrix.indptr, own.indptr) and np.array_equal(matrix.indices, own.indices)):
            raise DataError(
                f"adata.layers[{name!r}] and adata.layers[{key!r}] do not have the same entries: one was changed "
                "since gf.tl.perturb. Explicit zeros are entries, and must not be eliminated. Run gf.tl.perturb again."
            )
    first, place = distinct_columns(own, csc[rank_key])
    n_rows = np.diff(own.indptr)
    keep = np.repeat(np.isin(np.arange(len(n_rows)), first), n_rows)
    columns = np.repeat(place, n_rows)[keep]
    values, *states = (csc[name].data[keep].astype(np.float64) for name in value_keys)
    known = ~np.isnan(values)
    table = ShiftTable(
        cells=own.indices[keep].astype(np.int64),
        columns=columns,
        values=values,
        ranks=csc[rank_key].data[keep].astype(np.int64),
        states=np.column_stack(states) if states else np.empty((len(values), 0)),
        parts=np.empty((len(values), 0)),
        n_columns=len(first),
    )
    rows = np.flatnonzero(place >= 0)
    return table.where(known), rows, place[rows]


def _columns(adata: AnnData, key: str, cell_order: np.ndarray) -> sp.csc_matrix:
    """A layer by columns, its cells in the given order, stored zeros kept."""
    if key not in adata.layers:
        raise MissingKeyError(f"adata.layers[{key!r}] does not exist. Run gf.tl.perturb again.")
    layer = adata.layers[key]
    if not sp.issparse(layer):
        raise DataError(f"adata.layers[{key!r}] is dense: which perturbations apply is lost. Run gf.tl.perturb again.")
    return sp.csc_matrix(sp.csr_matrix(layer)[cell_order])


def _read_obsm(
    adata: AnnData, key: str, value_keys: list[str], cell_order: np.ndarray
) -> tuple[ShiftTable, np.ndarray, np.ndarray]:
    """Table of combinations, their numbers and their columns in the table."""
    n = len(adata.uns[key]["combinations"])
    for name in value_keys:
        shape = np.shape(adata.obsm[name]) if name in adata.obsm else None
        if shape != (adata.n_obs, n):
            raise DataError(
                f"adata.obsm[{name!r}] must have a column for each of the {n} combinations in adata.uns[{key!r}]; its "
                f"shape is {shape}. Run gf.tl.perturb again."
            )
    values, *states = (np.asarray(adata.obsm[name], dtype=np.float64)[cell_order] for name in value_keys)
    columns, cells = np.nonzero(~np.isnan(values.T))
    table = ShiftTable(
        cells=cells,
        columns=columns,
        values=values[cells, columns],
        ranks=np.zeros(len(cells), dtype=np.int64),
        states=np.column_stack([s[cells, columns] for s in states]) if states else np.empty((len(cells), 0)),
        parts=np.empty((len(cells), 0)),
        n_columns=n,
    )
    return table, np.arange(n), np.arange(n)


def _with_parts(
    adata: AnnData, key: str, table: ShiftTable, rows: np.ndarray, slots: np.ndarray, anchor: str, order: np.ndarray
) -> ShiftTable:
    """The table with the shifts of each gene alone and of the anchor alone in the same cell, NaN where not known."""
    alone = keys.without_anchor(key)
    if alone == key or alone not in adata.layers:
        logg.warning(
            f"There are no shifts of single genes under {alone!r}, so that those of pairs have nothing to be compared "
            "with (NaN). Run gf.tl.perturb for the anchor and the other genes without anchor=, too."
        )
        return replace(table, parts=np.full((len(table), 2), np.nan))
    singles = _columns(adata, alone, order)
    row_of_column = np.zeros(table.n_columns, dtype=np.int64)
    row_of_column[slots] = rows
    of_gene = _entries(singles, row_of_column[table.columns], table.cells)
    row = np.full(len(table), adata.var_names.get_indexer_for([anchor])[0])  # -1 if it is not there
    in_pairs, in_singles = (_entries(m, row, table.cells) for m in (_columns(adata, key, order), singles))
    both = np.where(np.isnan(in_singles), in_pairs, in_singles)  # where the anchor is one of the genes, it is alone
    return replace(table, parts=np.column_stack([of_gene, both]))


def _entries(matrix: sp.csc_matrix, genes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Entries of a matrix of cells × genes, NaN where it has none."""
    n_cells, n_genes = matrix.shape
    place = np.repeat(np.arange(n_genes), np.diff(matrix.indptr)) * n_cells + matrix.indices
    wanted = genes.astype(np.int64) * n_cells + cells
    found = np.full(len(wanted), np.nan)
    if len(place):
        at = np.minimum(np.searchsorted(place, wanted), len(place) - 1)
        there = place[at] == wanted
        found[there] = matrix.data[at[there]]
    return found


def _some(names: list[str], n: int = 10) -> str:
    listed = ", ".join(map(repr, names[:n]))
    return listed if len(names) <= n else f"{listed} and {len(names) - n} more"
