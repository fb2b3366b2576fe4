from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anndata as ad
import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.representation import read_embedding
from scgeneformer._checks import check_choice
from scgeneformer._engine.statistics.aggregate import AGGREGATES, rows_with_nan
from scgeneformer._engine.statistics.aggregate import aggregate as combine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._adata.groups import Groups


def aggregate(
    adata: AnnData,
    by: str | Sequence[str],
    func: Literal["mean", "median", "var"] = "mean",
    *,
    key: str = keys.EMBEDDING,
) -> AnnData:
    """Combine an embedding of cells into one of groups of cells.

    Parameters
    ----------
    adata
        Data with the embedding.
    by
        One or several columns of ``adata.obs`` that define the groups. Cells with a missing label belong to none;
        combinations and categories without a cell make no group.
    func
        "mean", "median" (element by element) or "var" (of the cells at hand, ``ddof=0``), in float64.
    key
        Key of the embedding in ``adata.obsm``, cells × d: any, not only Geneformer's. Cells whose row holds a NaN are
        left out.

    Returns
    -------
    AnnData (n_groups, d), one row per group, ready for scanpy, in the order of the categories (sorted otherwise). Has

    `.X` : float32
        The embeddings; NaN for a group without an embedded cell.
    `.obs` : the columns of `by` (categorical) and `n_cells`
        Labels, and the number of cells combined.
    `.var_names` : "0" to "d-1"
        Columns of the embedding; their own names, if it is a DataFrame.
    `.uns['aggregate']` : dict
        ``params`` (by, func, key) and how many cells had no label or no embedding, and how many categories no cell.

    Raises
    ------
    DataError
        If a column or the embedding does not exist, or it is not cells × d.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> groups = gf.get.aggregate(adata, ["cell_type", "phase"], "median", key="X_pca")
    >>> groups.obs.columns.tolist()
    ['cell_type', 'phase', 'n_cells']
    """
    check_choice(AGGREGATES, func=func)
    rows = read_embedding(adata, key)
    names = [str(name) for name in getattr(adata.obsm[key], "columns", range(rows.shape[1]))]
    groups = find_groups(adata, by)
    values, n_cells = combine(rows, groups.codes, len(groups.names), func)
    counts = {
        "n_cells_without_label": int((groups.codes < 0).sum()),
        "n_cells_without_embedding": int((rows_with_nan(rows) & (groups.codes >= 0)).sum()),
        "n_categories_without_cell": _n_unused(adata, groups),
    }
    _say(counts, n_cells, groups, adata.n_obs)
    obs = groups.table(n_cells)
    for column in groups.columns:
        used = set(obs[column])
        obs[column] = pd.Categorical(obs[column], [c for c in _categories(adata, column) if c in used])
    params = {"by": np.array(groups.columns), "func": func, "key": key}
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=names), uns={"aggregate": {"params": params, **counts}})


def _n_unused(adata: AnnData, groups: Groups) -> int:
    """Categories that no cell with a complete label has."""
    pairs = [(_categories(adata, column), set(groups.frame[column])) for column in groups.columns]
    return sum(label not in used for labels, used in pairs for label in labels)


def _categories(adata: AnnData, column: str) -> list[str]:
    """Labels in a column of `obs` as text, in the order of the categories, else sorted."""
    labels = in_memory(adata.obs, [column])[column]
    return [str(label) for label in pd.Categorical(labels).categories]


def _say(counts: dict[str, int], n_cells: np.ndarray, groups: Groups, n_obs: int) -> None:
    if n := counts["n_cells_without_embedding"]:
        logg.warning(f"{n} of {n_obs} cells have no embedding (NaN): they count in no group")
    if n := counts["n_categories_without_cell"]:
        logg.info(f"    {n} categories of {', '.join(groups.columns)} have no cell: they make no group")
    if empty := [groups.names[i] for i in np.flatnonzero(n_cells == 0)]:
        logg.warning(
            f"groups without an embedded cell are NaN: {', '.join(map(repr, empty))}. "
            "To drop them: groups = groups[groups.obs['n_cells'] > 0].copy()"
        )
