from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgeneformer._adata import keys
from scgeneformer._adata.groups import choose_groups
from scgeneformer._checks import check_whole
from scgeneformer._errors import DataError, missing_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def attention_df(
    adata: AnnData,
    group: str | Sequence[str] | None = None,
    *,
    key: str | None = None,
    n_pairs: int | None = 100,
    loops: bool = False,
) -> pd.DataFrame:
    """List the strongest attention between genes.

    Parameters
    ----------
    adata
        Data with a result of :func:`scgeneformer.tl.attention`.
    group
        One or several groups; None takes all. Only for results that were computed per group.
    key
        Key of the result: "geneformer_attention", or "geneformer_attention_<groupby>" for that of groups. None takes
        the first, or the only one there is; where `group` is given, the only one of groups.
    n_pairs
        Number of pairs, of each group; None lists all.
    loops
        Also list the attention of genes to themselves.

    Returns
    -------
    One row per pair, the strongest first: `source` (the query) and `target` (the key) as in ``adata.var_names``,
    `weight`, `n_cells`, and in results of groups `group`, these in their order.

    Raises
    ------
    DataError
        If there is no such result or group.

    See Also
    --------
    scgeneformer.tl.attention : computes it.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:20].copy()
    >>> gf.tl.attention(adata, model="mini")
    >>> gf.get.attention_df(adata, n_pairs=3).columns.tolist()
    ['source', 'target', 'weight', 'n_cells']
    """
    check_whole(n_pairs=1 if n_pairs is None else n_pairs)
    key = keys.chosen(key, keys.ATTENTION, _stored(adata, group))
    names = adata.var_names.to_numpy()
    table = adata.uns.get(keys.groups_table(key))
    if key in adata.varp or table is None:
        if group is not None:
            raise DataError(f"key={key!r} holds one result over all cells; it has no group={group!r}. Leave group out.")
        return _strongest(adata, key, names, n_pairs, loops)
    known = list(table.index)
    asked = choose_groups(known, group)
    frames = [_strongest(adata, keys.numbered(key, known.index(one)), names, n_pairs, loops) for one in asked]
    return pd.concat([f.assign(group=one) for one, f in zip(asked, frames, strict=True)], ignore_index=True)


def _stored(adata: AnnData, group: str | Sequence[str] | None) -> list[str]:
    """Keys of the results, of those per group alone if a group is asked for."""
    of_groups = [key for key in adata.uns if keys.n_cells(keys.numbered(key, 0)) in adata.varp]
    return of_groups + ([] if group is not None else [key for key in adata.uns if keys.n_cells(key) in adata.varp])


def _strongest(adata: AnnData, key: str, names: np.ndarray, n: int | None, loops: bool) -> pd.DataFrame:
    if key not in adata.varp:
        raise missing_key("varp", key, adata.varp, "Run gf.tl.attention(adata) first.")
    weights, n_cells = (sp.csr_matrix(adata.varp[name]) for name in (key, keys.n_cells(key)))
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    kept = np.arange(weights.nnz) if loops else np.flatnonzero(rows != weights.indices)
    if n is not None and n < len(kept):
        kept = kept[np.argpartition(-weights.data[kept], n - 1)[:n]]
    kept = kept[np.argsort(-weights.data[kept], kind="stable")]
    source, target = rows[kept], weights.indices[kept]
    found = {"source": names[source], "target": names[target], "weight": weights.data[kept]}
    return pd.DataFrame(found | {"n_cells": n_cells.data[kept]})
