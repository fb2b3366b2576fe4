"""The result of `gf.tl.rank_genes_context` in `uns`, as arrays and as a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata.groups import frame_of_groups
from scgeneformer._errors import MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

    from scgeneformer._engine.statistics.gene_context import Comparison

COLUMNS = (  # in uns, and of the frame
    "names",
    "effect",
    "scores",
    "pvals",
    "pvals_adj",
    "n_cells",
    "n_cells_reference",
    "n_replicates",
)


def to_uns(comparisons: list[Comparison], groups: list[str], names: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Arrays (n_genes, n_groups), each group sorted by its p-values, then by effect, largest first.

    Parameters
    ----------
    comparisons
        One per group.
    groups
        Their names.
    names
        Names of the genes, (n_genes,).
    rows
        Row of each gene in the comparisons, (n_genes,).
    """
    columns: dict[str, list[np.ndarray]] = {key: [] for key in COLUMNS}
    for found in comparisons:
        order = np.lexsort((-found.effect[rows], found.pvals[rows]))  # NaN last
        columns["names"].append(names[order].astype(object))
        for key in COLUMNS[1:]:
            columns[key].append(getattr(found, "score" if key == "scores" else key)[rows][order])
    return {"groups": np.array(groups, dtype=object), **{key: np.column_stack(each) for key, each in columns.items()}}


def context_frame(adata: AnnData, group: str | Sequence[str] | None, key: str) -> pd.DataFrame:
    """Read the arrays of one, some or all groups as one long frame.

    Raises
    ------
    MissingKeyError
        If there is no such result.
    DataError
        If there is no such group.
    """
    stored = adata.uns.get(key)
    if not isinstance(stored, Mapping) or not {"groups", *COLUMNS} <= set(stored):
        raise MissingKeyError(
            f"adata.uns[{key!r}] does not hold differential context. Run gf.tl.rank_genes_context(adata, '<column>') "
            "first."
        )
    return frame_of_groups(stored["groups"], group, {column: stored[column] for column in COLUMNS})
