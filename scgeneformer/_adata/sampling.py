"""A random sample of cells that does not depend on the order of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

if TYPE_CHECKING:
    from anndata import AnnData


def sample_cells(adata: AnnData, sample: int | None, seed: int, cells: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Choose up to `sample` cells of each group, by the names of the cells.

    Parameters
    ----------
    adata
        The data.
    sample
        Cells of each group; None takes all.
    seed
        Of the sample.
    cells
        Cells to choose from, (n_obs,) bool.
    codes
        Group of each cell, (n_obs,) int64; cells of group -1 are not chosen.

    Returns
    -------
    Which cells are chosen, (n_obs,) bool.
    """
    if sample is None:
        return cells
    by_name = np.argsort(adata.obs_names.to_numpy(str), kind="stable")
    kept = np.zeros(adata.n_obs, dtype=bool)
    for code in np.unique(codes[cells & (codes >= 0)]):
        members = by_name[(cells & (codes == code))[by_name]]
        kept[np.random.default_rng((seed, code)).permutation(members)[:sample]] = True
    if kept.sum() < cells.sum():
        logg.info(f"    over a random sample of {int(kept.sum())} of {int(cells.sum())} cells")
    return kept
