"""What `gf.tl.perturb` stored per perturbation by name: shifts of other genes in `varm`, vectors of cells in `obsm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer._adata import keys
from scgeneformer._checks import check_whole
from scgeneformer._errors import DataError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData


def effects_frame(adata: AnnData, perturbation: str | None, key: str, min_cells: int) -> pd.DataFrame:
    """Responding genes with mean, sd and number of cells, the largest mean first.

    Raises
    ------
    MissingKeyError
        If no such effects are stored.
    DataError
        If there is no such perturbation, or `min_cells` is not positive.
    """
    check_whole(min_cells=min_cells)
    effects = keys.effects_key(key)
    parts = {"mean": effects, "sd": keys.spread_key(effects), "n_cells": keys.n_cells(effects)}
    if missing := [part for part in parts.values() if part not in adata.varm]:
        raise MissingKeyError(
            f"adata.varm[{missing[0]!r}] does not exist. Run gf.tl.perturb(adata, ['<gene>'], effects=True) first."
        )
    i = position(adata, perturbation, key, "effects")
    frame = pd.DataFrame({name: np.asarray(adata.varm[part])[:, i] for name, part in parts.items()})
    frame.insert(0, "names", adata.var_names.to_numpy())
    frame = frame[frame["mean"].notna() & (frame["n_cells"] >= min_cells)]
    return frame.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def cell_vectors(adata: AnnData, perturbation: str | None, key: str) -> tuple[str, np.ndarray]:
    """Name of a perturbation and the vectors by which it moves the cells, (n_obs, d) float64.

    Raises
    ------
    MissingKeyError
        If no vectors are stored.
    DataError
        If there is no such perturbation.
    """
    where = keys.vectors_key(key)
    if where not in adata.obsm:
        raise MissingKeyError(
            f"adata.obsm[{where!r}] does not exist. Run gf.tl.perturb(adata, ['<gene>'], vectors=True) first."
        )
    i = position(adata, perturbation, key, "vectors")
    return str(adata.uns[key]["vectors"][i]), np.asarray(adata.obsm[where][:, i], dtype=np.float64)


def position(adata: AnnData, perturbation: str | None, key: str, axis: str) -> int:
    """Place of a perturbation among those named in ``uns[key][axis]``; None is the only one."""
    stored = adata.uns.get(key, {}).get(axis)
    if stored is None:
        raise MissingKeyError(
            f"adata.uns[{key!r}][{axis!r}] does not exist. Run gf.tl.perturb again, with {axis}=True."
        )
    names = [str(name) for name in stored]
    if perturbation is None and len(names) == 1:
        return 0
    if perturbation not in names:
        said = "names none of them" if perturbation is None else "does not exist"
        raise DataError(f"perturbation={perturbation!r} {said}; {axis} are stored of: {', '.join(map(repr, names))}.")
    return names.index(perturbation)
