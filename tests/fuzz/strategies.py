"""Cells as users have them: counts of any type, format and place, names of any kind, and what is no counts at all."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from hypothesis import strategies as st

N_GENES = 40  # of the vocabulary of toys.make_vocabulary
DTYPES = ["float32", "int64", "uint16", "float16", "float64", "int32", "uint8", "bool", "int8", "uint64"]
KINDS = ["categories", "text", "categories", "numbers", "truth", "categories", "missing", "float"]
SIZES = (12, 25, 40, 25, 40, 0, 1, 2)
LABELS = ["T cell", "CD4+/CD25 T Reg", "γδ T/µ", "B", ""]
COLUMNS = ["cell_type", "Zelltyp/Größe", "type of cell", "тип"]


@dataclass
class Case:
    """An AnnData as a user has it, and the same counts and names as plain as can be.

    Parameters
    ----------
    odd
        The AnnData.
    plain
        The same in memory, counts in `X` as CSR float32.
    where
        Arguments that say where the counts of `odd` are.
    groupby
        A column of `obs` with labels.
    """

    odd: ad.AnnData
    plain: ad.AnnData
    where: dict[str, Any]
    groupby: str
    seed: int = field(default=0, repr=False)


@contextmanager
def quiet():
    """What anndata says of names that are not unique, and of "/" in them, is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- formats --------------------------------------------------------------------------------------------------------


def _wide(x: np.ndarray) -> sp.csr_matrix:
    found = sp.csr_matrix(x)
    found.indices, found.indptr = found.indices.astype(np.int64), found.indptr.astype(np.int64)
    return found


def _unsorted(x: np.ndarray) -> sp.csr_matrix:
    found = sp.csr_matrix(x)
    for start, stop in zip(found.indptr[:-1], found.indptr[1:], strict=True):
        for values in (found.data, found.indices):
            values[start:stop] = values[start:stop][::-1].copy()
    return sp.csr_matrix((found.data, found.indices, found.indptr), found.shape)


def _twice(x: np.ndarray) -> sp.csr_matrix:
    """Every entry but the first of a row is stored in two parts: 0 and itself."""
    found = sp.csr_matrix(x)
    data = np.stack([found.data, np.zeros_like(found.data)], axis=1).ravel()
    return sp.csr_matrix((data, np.repeat(found.indices, 2), 2 * found.indptr), found.shape)


def _zeros(x: np.ndarray) -> sp.csr_matrix:
    """All entries are stored, zeros too."""
    n, m = x.shape
    return sp.csr_matrix((x.ravel().copy(), np.tile(np.arange(m), n), np.arange(n + 1) * m), x.shape)


FORMATS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr": sp.csr_matrix,
    "dense": np.ascontiguousarray,
    "csc": sp.csc_matrix,
    "fortran": np.asfortranarray,
    "csr array": sp.csr_array,
    "csc array": sp.csc_array,
    "csr, int64 indices": _wide,
    "csr, unsorted": _unsorted,
    "csr, entries twice": _twice,
    "csr, zeros stored": _zeros,
}
BROKEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NaN": lambda x: np.where(x == x.max(), np.nan, x.astype(np.float32)),
    "negative": lambda x: np.where(x == x.max(), -1, x.astype(np.float32)),
    "infinite": lambda x: np.where(x == x.max(), np.inf, x.astype(np.float32)),
    "scaled": lambda x: x.astype(np.float32) - 0.5,
}

# --- names ----------------------------------------------------------------------------------------------------------


def _ids(numbers: np.ndarray) -> list[str]:
    return [f"ENSG{i:011d}" for i in numbers]


def _symbols(numbers: np.ndarray) -> list[str]:
    return [f"G{i}" for i in numbers]


NAMES: dict[str, Callable[[np.ndarray], pd.DataFrame]] = {
    "symbols, IDs in a column": lambda n: pd.DataFrame({"ensembl_id": _ids(n)}, index=_symbols(n)),
    "symbols": lambda n: pd.DataFrame(index=_symbols(n)),
    "IDs with versions": lambda n: pd.DataFrame(index=[f"{name}.{i % 7}" for i, name in enumerate(_ids(n))]),
    "IDs in lower case": lambda n: pd.DataFrame(index=[name.lower() for name in _ids(n)]),
    "names with /": lambda n: pd.DataFrame({"gene_ids": _ids(n)}, index=[f"gène/{i} β" for i in n]),
    "categorical IDs": lambda n: pd.DataFrame({"gene_ids": pd.Categorical(_ids(n))}, index=_symbols(n)),
    "missing IDs": lambda n: pd.DataFrame(
        {"ensembl_id": [None if i % 5 == 3 else name for i, name in enumerate(_ids(n))]}, index=_symbols(n)
    ),
    "made unique": lambda n: pd.DataFrame(
        index=[name if i == 0 or n[i] != n[i - 1] else f"{name}-1" for i, name in enumerate(_symbols(n))]
    ),
    "numbers": lambda n: pd.DataFrame({"gene_ids": _ids(n)}, index=[str(i) for i in range(len(n))]),
}


def _obs(rng: np.random.Generator, n_obs: int, column: str, labels: str) -> pd.DataFrame:
    values = np.array(LABELS, dtype=object)[rng.integers(0, len(LABELS) - 1, n_obs)]
    values[rng.random(n_obs) < 0.15] = None
    kinds = {
        "categories": lambda: pd.Categorical(values, categories=[*LABELS, "nobody's"]),
        "text": lambda: values,
        "numbers": lambda: rng.integers(0, 3, n_obs),
        "truth": lambda: rng.random(n_obs) < 0.5,
        "missing": lambda: np.full(n_obs, np.nan),
        "float": lambda: rng.random(n_obs).round(1),
    }
    obs = pd.DataFrame({column: kinds[labels](), "donor": np.resize(["a", "b/c", "ß"], n_obs)})
    obs.index = [f"Zelle/{i}" for i in range(n_obs)]
    return obs


# --- cases ----------------------------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn, folder: Path, *, sizes: tuple[int, ...] = SIZES) -> Case:
    """Draw a case; files of backed ones are in `folder`."""
    n_obs, seed = draw(st.sampled_from(sizes)), draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    numbers = draw(st.sampled_from(["all", "some are unknown", "all", "some twice", "all", "one", "none"]))
    genes = {
        "all": np.arange(N_GENES),
        "some are unknown": np.sort(rng.choice(3 * N_GENES, N_GENES, replace=False)),
        "one": np.array([3]),
        "none": np.arange(0),
        "some twice": np.sort(rng.integers(0, N_GENES, N_GENES)),
    }[numbers]
    dense = rng.integers(1, 6, (n_obs, len(genes))) * (
        rng.random((n_obs, len(genes))) < draw(st.sampled_from([0.4, 0.1]))
    )
    counts = dense.astype(draw(st.sampled_from(DTYPES)))
    if draw(st.integers(0, 5)) == 5:
        thirds = counts / np.float32(3)  # no whole numbers
        counts = thirds.astype(np.float32).astype(thirds.dtype)  # as the plain twin: with the same ties
    broken = draw(st.sampled_from([None] * 9 + list(BROKEN)))
    counts = counts if broken is None or not counts.size else BROKEN[broken](counts)
    column, labels = (
        draw(st.sampled_from(COLUMNS)),
        draw(st.sampled_from(KINDS)),
    )
    obs, var = _obs(rng, n_obs, column, labels), NAMES[draw(st.sampled_from(list(NAMES)))](genes)
    if draw(st.integers(0, 7)) == 7:
        obs.index = ["same"] * n_obs
    form = draw(st.sampled_from(list(FORMATS)))
    form = "dense" if counts.dtype == np.float16 else form  # scipy has no sparse float16
    place = draw(st.sampled_from(["X", "layer", "raw"]))
    view = draw(st.sampled_from(["whole", "cells", "genes", "backed"]))
    view = "whole" if (view, place) == ("backed", "layer") else view  # anndata opens no file without X
    with quiet():
        odd, where = _placed(FORMATS[form](counts), obs, var, place)
        rows = np.arange(n_obs)[::-1][: max(1, n_obs - 2)]
        if view == "cells":
            odd, dense_view, var_view = odd[rows], counts[rows], var
        elif view == "genes" and place != "raw":
            odd, dense_view, var_view = odd[:, ::2], counts[:, ::2], var[::2]
        else:
            dense_view, var_view = counts, var
        if view == "backed":
            file = tempfile.NamedTemporaryFile(dir=folder, suffix=".h5ad", delete=False)  # noqa: SIM115
            file.close()
            odd.write_h5ad(file.name)
            odd = ad.read_h5ad(file.name, backed="r")
        plain = ad.AnnData(sp.csr_matrix(dense_view.astype(np.float32)), obs=odd.obs.copy(), var=var_view.copy())
    return Case(odd, plain, where, column, seed)


def _placed(counts: Any, obs: pd.DataFrame, var: pd.DataFrame, place: str) -> tuple[ad.AnnData, dict[str, Any]]:
    """An AnnData with the counts somewhere, and the arguments that say where."""
    if place == "X":
        return ad.AnnData(counts, obs=obs, var=var), {}
    if place == "layer":
        return ad.AnnData(None, obs=obs, var=var, layers={"counts of cells": counts}), {
            "counts_layer": "counts of cells"
        }
    adata = ad.AnnData(counts, obs=obs, var=var)
    adata.raw = adata.copy()
    adata.X = adata.X[:, ::-1].copy()  # counts, and not those that are meant
    return adata, {"use_raw": True}
