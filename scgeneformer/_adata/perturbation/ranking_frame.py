"""The result of `gf.tl.rank_perturbations` in `uns`, as arrays and as a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata.groups import frame_of_groups
from scgeneformer._errors import MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

COLUMNS = (  # in uns, and of the frame, in this order; each test has some of them
    "names",
    "effect",
    "scores",
    "pvals",
    "pvals_adj",
    "shift",
    "null_shift",
    "placement",
    "sd",
    "impact",
    "impact_share",
    "individual",
    "anchor",
    "sum",
    "interaction",
    "rank",
    "n_cells",
    "n_cells_null",
    "n_null",
    "n_replicates",
)
BY_STATE = {"state_effects": "shift_to", "state_pvals": "pvals_to", "state_pvals_adj": "pvals_adj_to"}
BASE = {"groups", "names", "effect", "rank_correlation", "params"}


def to_uns(
    found: list[dict[str, np.ndarray]],
    orders: list[np.ndarray],
    groups: list[str],
    names: np.ndarray,
    slots: np.ndarray,
    correlations: list[float],
) -> dict[str, Any]:
    """Arrays (n_names, n_groups), and (n_names, n_groups, n_states) for what is per state.

    Parameters
    ----------
    found
        Arrays over the perturbations, one dict per group.
    orders
        Order of the perturbations in each group.
    groups
        Names of the groups.
    names
        Names to be listed, (n_names,).
    slots
        Perturbation of each.
    correlations
        Of the effect with the rank, one per group.
    """
    stored: dict[str, list[np.ndarray]] = {"names": []}
    for one, order in zip(found, orders, strict=True):
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        rows = np.argsort(place[slots], kind="stable")
        stored["names"].append(names[rows].astype(object))
        for key, values in one.items():
            stored.setdefault(key, []).append(values[slots[rows]])
    together = {key: np.stack(each, axis=1) for key, each in stored.items()}
    return {"groups": np.array(groups, dtype=object), "rank_correlation": np.array(correlations), **together}


def read_ranking(adata: AnnData, key: str) -> dict[str, Any]:
    """The stored result.

    Raises
    ------
    MissingKeyError
        If there is none.
    """
    stored = adata.uns.get(key)
    if not isinstance(stored, dict) or not set(stored) >= BASE:
        raise MissingKeyError(
            f"adata.uns[{key!r}] does not hold a ranking of perturbations. Run gf.tl.rank_perturbations(adata) first."
        )
    return stored


def ranking_frame(adata: AnnData, group: str | Sequence[str] | None, key: str) -> pd.DataFrame:
    """Read the arrays of one, some or all groups as one long frame.

    Raises
    ------
    MissingKeyError
        If there is no such result.
    DataError
        If there is no such group.
    """
    stored = read_ranking(adata, key)
    columns = {column: stored[column] for column in COLUMNS if column in stored}
    for j, state in enumerate(stored.get("states", [])):
        columns |= {f"{prefix}_{state}": np.asarray(stored[of])[..., j] for of, prefix in BY_STATE.items()}
    return frame_of_groups(stored["groups"], group, columns)
