"""The results of `gf.tl.perturb` under the keys of the storage contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.perturbation.results import group_means
from scgeneformer._adata.writer import Results

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer._adata.groups import Groups
    from scgeneformer._adata.perturbation.choice import Choice
    from scgeneformer._adata.perturbation.goal import Goal
    from scgeneformer._adata.perturbation.results import Gathered


class PerturbationWriter:
    """Turns results into entries of an AnnData.

    Parameters
    ----------
    adata
        The data.
    tokens_of_var
        Token of each gene, (n_vars,) int32.
    n_tokens
        Of the vocabulary.
    choice, goal, groups
        What was perturbed, towards which states, and the groups to average over.
    """

    def __init__(
        self,
        adata: AnnData,
        tokens_of_var: np.ndarray,
        n_tokens: int,
        choice: Choice,
        goal: Goal | None,
        groups: Groups | None,
    ) -> None:
        self.n_obs, self.choice, self.goal, self.groups = adata.n_obs, choice, goal, groups
        self.uns = adata.uns
        self.columns = np.empty(0, dtype=np.int64)
        self.names: list[str] = []  # of the columns
        if choice.singles is not None:
            tokens = np.sort(choice.singles)
            first = {token: i for i, token in reversed(list(enumerate(tokens_of_var.tolist())))}
            self.names = [str(adata.var_names[first[token]]) for token in tokens.tolist()] + list(choice.names)
            self.columns = np.concatenate([tokens, n_tokens + np.arange(len(choice.names))])

    def write(self, results: Results, key: str, layer: int, gathered: Gathered, params: dict[str, Any]) -> None:
        """Add the results of one layer."""
        uns: dict[str, Any] = {"params": params}
        measured = {key: gathered.column(f"shift_L{layer}")}
        if self.goal is not None:
            toward = gathered.column(f"toward_L{layer}")
            state_keys = [keys.state_key(key, slug) for slug in self.goal.slugs]
            measured |= {name: toward[:, i] for i, name in enumerate(state_keys)}
            uns |= {"states": np.array(self.goal.states), "state_keys": np.array(state_keys)}
        if self.choice.singles is None or len(self.choice.singles):
            results.layers |= {name: gathered.layer(values) for name, values in measured.items()}
            results.layers[keys.rank_key(key)] = gathered.layer(gathered.column("rank"))
            if gathered.has("exact"):
                results.layers[keys.exact_key(key)] = gathered.layer(gathered.column("exact"))
            self._add_groups(results, uns, key)
        if self.choice.singles is not None and len(self.choice.singles):
            uns["genes"] = np.array(self.names[: len(self.choice.singles)])
        if self.choice.names:
            results.obsm |= {name: gathered.combined(values) for name, values in measured.items()}
            uns["combinations"] = np.array(self.choice.names)
        self._add_details(results, uns, key, layer, gathered)
        results.uns[key] = uns
        results.removed += _left_by(self.uns.get(key), key)

    def _add_groups(self, results: Results, uns: dict[str, Any], key: str) -> None:
        if self.groups is None:
            return
        name = keys.group_key(key, self.groups.columns)
        results.varm[name], results.varm[keys.n_cells(name)] = group_means(results.layers[key], self.groups)
        uns["groups"] = np.array(self.groups.names)
        uns["params"] = uns["params"] | {"groupby": np.array(self.groups.columns)}

    def _add_details(self, results: Results, uns: dict[str, Any], key: str, layer: int, gathered: Gathered) -> None:
        """Effects and vectors, where they were measured."""
        if gathered.has(f"vector_L{layer}"):
            vectors = gathered.column(f"vector_L{layer}")
            results.obsm[keys.vectors_key(key)] = gathered.of_columns(vectors, self.columns)
            uns["vectors"] = np.array(self.names)
        if gathered.has(f"pair_L{layer}"):
            name = keys.effects_key(key)
            mean, spread, n_cells = gathered.effects(layer, self.columns)
            results.varm |= {name: mean, keys.spread_key(name): spread, keys.n_cells(name): n_cells}
            uns["effects"] = np.array(self.names)

    def warn_without_cells(self, gathered: Gathered) -> None:
        """Warn, once, of perturbations that apply to no cell."""
        never = [name for name, column in zip(self.names, self.columns, strict=True) if column not in gathered.used]
        if never:
            more = f" and {len(never) - 10} more" if len(never) > 10 else ""
            logg.warning(
                f"{len(never)} of {len(self.names)} perturbations apply to no cell, because none contains the genes "
                f"within the model's input size: {', '.join(never[:10])}{more}"
            )


def _left_by(earlier: Any, key: str) -> list[tuple[str, str]]:
    """Slots and keys in which an earlier call left results, as its entry in `uns` tells; some may not be there."""
    params = earlier.get("params", {}) if isinstance(earlier, Mapping) else {}
    if "mode" not in params:
        return []
    shifts = [key, *map(str, earlier.get("state_keys", []))]
    effects = keys.effects_key(key)
    means = [effects, *([keys.group_key(key, list(params["groupby"]))] if "groupby" in params else [])]
    return [
        *(("layers", one) for one in (*shifts, keys.rank_key(key), keys.exact_key(key))),
        *(("obsm", one) for one in (*shifts, keys.vectors_key(key))),
        *(("varm", one) for one in (*means, *map(keys.n_cells, means), keys.spread_key(effects))),
    ]
