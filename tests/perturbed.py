"""Hand-made results of `gf.tl.perturb`, as docs/storage.md describes them."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

KEY = "geneformer_delete"
STATES = ["dcm / failing", "nf", "hcm"]
STATE_KEYS = [f"{KEY}_to_{slug}" for slug in ("dcm_failing", "nf", "hcm")]


def make_ranks(n_cells: int, n_genes: int, density: float, rng: np.random.Generator) -> np.ndarray:
    """Rank of each gene in each cell, 1 = first, 0 = not in the cell; low columns tend to come first."""
    present = rng.random((n_cells, n_genes)) < density
    level = np.where(present, np.arange(n_genes) + rng.normal(0, n_genes / 6, present.shape), np.inf)
    return np.where(present, level.argsort(axis=1).argsort(axis=1) + 1, 0)


def noisy(ranks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifts that are skewed and fall with the rank."""
    return rng.gamma(2, 0.02, ranks.shape) / (1 + ranks / 10)


def csr(values: np.ndarray, applies: np.ndarray) -> sp.csr_matrix:
    """CSR float32 of the values where the perturbation applies; zeros are stored."""
    rows, columns = np.nonzero(applies)
    indptr = np.concatenate([[0], np.cumsum(applies.sum(axis=1))]).astype(np.int32)
    return sp.csr_matrix((values[rows, columns].astype(np.float32), columns.astype(np.int32), indptr), applies.shape)


def make_perturbed(
    n_cells: int = 60,
    n_genes: int = 30,
    *,
    density: float = 0.6,
    shifts: Callable[[np.ndarray, np.random.Generator], np.ndarray] = noisy,
    asked: list[str] | None = None,
    perturbed: list[str] | None = None,
    everywhere: bool = False,
    seed: int = 0,
    key: str = KEY,
) -> ad.AnnData:
    """Cells of two types and six donors with shifts, ranks, goal states, combinations, vectors and effects.

    Parameters
    ----------
    shifts
        From ranks (n_cells, n_genes) to shifts.
    asked
        Genes that were named.
    perturbed
        Genes that were perturbed; None: all.
    everywhere
        The perturbation applies to all cells, as overexpression does.
    """
    rng = np.random.default_rng(seed)
    ranks = make_ranks(n_cells, n_genes, density, rng)
    applies = np.ones_like(ranks, dtype=bool) if everywhere else ranks > 0
    applies &= np.isin([f"G{i}" for i in range(n_genes)], perturbed) if perturbed else True
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.resize(["T cell", "CD4+/CD25 T Reg"], n_cells)),
            "donor": pd.Categorical(np.resize(list("abcdef"), n_cells)),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"G{i}" for i in range(n_genes)])
    adata = ad.AnnData(csr(np.where(ranks > 0, 1.0, 0.0), ranks > 0), obs=obs, var=var)
    adata.layers[key] = csr(shifts(ranks, rng), applies)
    adata.layers[f"{key}_rank"] = csr(ranks, applies)
    for i, name in enumerate(STATE_KEYS):
        towards = rng.normal(0, 0.01, ranks.shape) + 0.002 * (i == 1) * (np.arange(n_genes) % 5 == 0)
        adata.layers[name.replace(KEY, key)] = csr(towards, applies)
    adata.uns[key] = {
        "params": {"mode": "delete", "positions": "shift", "measure": "genes", "layer": 2}
        | {"goal_column": "disease", "start": STATES[0], "goal": STATES[1]},
        "states": np.array(STATES, dtype=object),
        "state_keys": np.array([name.replace(KEY, key) for name in STATE_KEYS], dtype=object),
    }
    if asked is not None:
        adata.uns[key]["genes"] = np.array(asked, dtype=object)
    _add_named(adata, key, rng)
    return adata


def _add_named(adata: ad.AnnData, key: str, rng: np.random.Generator) -> None:
    """Combinations, vectors and effects."""
    pairs = ["G0 + G1", "G2 + G3", "G4 + G5 + G6", "G0 + G7"]
    for name in (key, *adata.uns[key]["state_keys"]):
        values = rng.gamma(2, 0.01, (adata.n_obs, len(pairs))).astype(np.float32)
        values[:, 1] += 0.05
        values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
        adata.obsm[name] = values
    adata.uns[key]["combinations"] = np.array(pairs, dtype=object)
    named = np.array(["G0", "G2 + G3"], dtype=object)
    adata.obsm[f"{key}_vectors"] = rng.normal(size=(adata.n_obs, 2, 8)).astype(np.float32)
    adata.obsm[f"{key}_vectors"][:3, 0] = np.nan
    effects = rng.gamma(2, 0.01, (adata.n_vars, 2)).astype(np.float32)
    effects[0, 0] = np.nan
    adata.varm[f"{key}_effects"] = effects
    adata.varm[f"{key}_effects_sd"] = effects / 3
    adata.varm[f"{key}_effects_n_cells"] = np.tile(np.arange(adata.n_vars)[:, None], 2).astype(np.int32)
    adata.uns[key] |= {"effects": named, "vectors": named}


def add_anchor(adata: ad.AnnData, anchor: str = "G1", key: str = KEY) -> None:
    """Shifts of pairs of the anchor with each other gene, under ``<key>_anchor``."""
    both = f"{key}_anchor"
    column = list(adata.var_names).index(anchor)
    ranks = adata.layers[f"{key}_rank"].toarray()
    shifts = adata.layers[key].toarray()
    applies = (ranks > 0) & (ranks[:, [column]] > 0)
    joint = 0.9 * shifts + shifts[:, [column]] + 0.001 * ranks / ranks.max()
    joint[:, column] = shifts[:, column]
    adata.layers[both] = csr(joint, applies)
    adata.layers[f"{both}_rank"] = csr(ranks, applies)
    adata.uns[both] = {"params": adata.uns[key]["params"] | {"anchor": anchor}}


def long(adata: ad.AnnData, key: str = KEY, *others: str) -> pd.DataFrame:
    """One row per entry: cell, gene, shift, rank, and the other layers named."""
    layer = adata.layers[key].tocoo()
    frame = pd.DataFrame({"cell": layer.row, "gene": adata.var_names[layer.col], "shift": layer.data.astype(float)})
    frame["rank"] = adata.layers[f"{key}_rank"].tocoo().data
    for name in others:
        frame[name] = adata.layers[name].tocoo().data.astype(float)
    return frame
