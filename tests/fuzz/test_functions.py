"""Every public function, on cells as users have them: it works and keeps its promises, or says in words what is wrong.

What it promises: rows are neither dropped nor moved; results have the shapes and types of docs/storage.md, survive a
round trip through h5ad, and are those of the same counts in memory as CSR float32; a call that fails changes nothing.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal
from fuzz.calls import CALLS, SLOW, Arguments, make_kit
from fuzz.strategies import SIZES, Case, cases, quiet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import scgeneformer as gf

SLOTS = ("obs", "var", "obsm", "varm", "varp", "layers", "uns")
TYPES = {
    r"obs/geneformer_n_(tokens|genes)|var/geneformer_token": np.int32,
    r"var/geneformer_kind_n_cells|varm/.*_n_cells|varp/.*_n_cells": np.int32,
    r"obs/.*_(log_likelihood|pseudo_perplexity|confidence)|var/.*_confidence": np.float32,
    r"var/geneformer_(median|mean|variance|std|detection)": np.float64,
    r"var/ensembl_id": object,
    r"obs/geneformer_(split|kind)|var/geneformer_kind": "category",
    r"obsm/geneformer_tokens": np.uint16,
    r"obsm/geneformer_checksums": np.uint64,
    r"(obsm|varm|varp|layers)/.*": np.float32,
    r"uns/.*": None,
}
PLACES = r"adata|obs|var|raw|layers|`|=|gf\.|genes?|model|cells"  # an error names at least one
QUIET = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to shrink a case takes longer than to read it
    report_multiple_bugs=False,
)


pytestmark = pytest.mark.filterwarnings("ignore:(Observation|Variable) names are not unique:UserWarning")  # to views


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return make_kit(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", autouse=True)
def _still():
    """Neither figures nor logs."""
    before, backend = sc.settings.verbosity, mpl.get_backend()
    mpl.use("Agg")
    sc.settings.verbosity = 0
    yield
    sc.settings.verbosity = before
    mpl.use(backend)


def test_every_public_function_is_called():
    there = {f"{part}.{name}" for part in ("pp", "tl", "get", "pl") for name in getattr(gf, part).__all__}
    assert set(CALLS) == there


def same(one: Any, other: Any) -> None:
    """Both are equal, NaN to NaN."""
    if isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other, rtol=1e-5)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, rtol=1e-5)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same(value, other[key])
    elif sp.issparse(one):
        np.testing.assert_allclose(one.toarray(), other.toarray(), rtol=1e-4, atol=1e-6)
    elif isinstance(one, np.ndarray) and one.dtype.kind == "f":
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)
    else:
        np.testing.assert_array_equal(one, other)


def snapshot(adata: ad.AnnData) -> ad.AnnData:
    with quiet():
        return adata.to_memory() if adata.isbacked else adata.copy()


def entries(adata: ad.AnnData) -> dict[str, Any]:
    return {f"{slot}/{key}": getattr(adata, slot)[key] for slot in SLOTS for key in getattr(adata, slot)}


def added(before: ad.AnnData, after: ad.AnnData) -> dict[str, Any]:
    """New entries; all others must be as they were."""
    old, new = entries(before), entries(after)
    same(old, {name: new.get(name) for name in old})
    return {name: value for name, value in new.items() if name not in old}


def outcome(name: str, adata: ad.AnnData, arguments: Arguments) -> tuple[Any, dict[str, Any]] | str | None:
    """What a call returns and adds; None if what must be there before cannot be made; the text of its error."""
    prepare, call = CALLS[name]
    try:
        with quiet():
            prepare(adata, arguments)
    except gf.GeneformerError:
        return None
    before = snapshot(adata)
    shutil.rmtree(arguments.out, ignore_errors=True)
    rewritten = ["ensembl_id"] if name == "pp.map_genes" else []  # the one column of users that is a result, too
    try:
        returned = call(adata, arguments)
    except gf.GeneformerError as error:
        assert_equal(snapshot(adata), before)
        return str(error)
    after = snapshot(adata)
    if name.startswith("pl."):  # scanpy's plots make text in obs categories
        before.strings_to_categoricals()
        after.strings_to_categoricals()
    before.var = before.var.drop(columns=rewritten, errors="ignore")
    same(after.obs_names, before.obs_names)
    same(after.var_names, before.var_names)
    same(after.X, before.X)
    return returned, added(before, after)


def check_types(results: dict[str, Any], n_obs: int, n_vars: int) -> None:
    """Shapes and types of results."""
    sizes = {"obs": n_obs, "obsm": n_obs, "layers": n_obs, "var": n_vars, "varm": n_vars, "varp": n_vars}
    for name, value in results.items():
        dtype = next(kind for pattern, kind in TYPES.items() if re.fullmatch(pattern, name))
        slot = name.split("/")[0]
        if dtype is None:
            continue
        assert value.shape[0] == sizes[slot]
        if dtype is object:
            assert value.map(lambda text: isinstance(text, str)).all(), name
        else:
            assert value.dtype == dtype, (name, value.dtype)
        if slot in ("varp", "layers"):
            assert value.format == "csr"


def check_round_trip(results: dict[str, Any], obs: pd.Index, var: pd.Index, file: Path) -> None:
    """What is added comes back from a file as it was."""
    parts: dict[str, dict[str, Any]] = {slot: {} for slot in SLOTS}
    for name, value in results.items():
        slot, key = name.split("/", 1)
        parts[slot][key] = value
    parts["obs"] = pd.DataFrame(parts["obs"], index=obs)
    parts["var"] = pd.DataFrame(parts["var"], index=var)
    with quiet():
        adata = ad.AnnData(**parts)
        adata.write_h5ad(file)
        assert_equal(ad.read_h5ad(file), adata)


def without_place(results: dict[str, Any]) -> dict[str, Any]:
    """The same results without the name of the place where the counts were."""

    def cleaned(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: cleaned(part) for key, part in value.items() if key not in ("counts", "checksum")}

    return {name: cleaned(value) for name, value in results.items()}


def check(name: str, case: Case, kit: Any, folder: Path) -> None:
    n_obs, n_vars = case.odd.shape
    found = outcome(name, case.odd, Arguments(kit, case.where, case.groupby, folder / "odd"))
    expected = outcome(name, case.plain, Arguments(kit, {}, case.groupby, folder / "plain"))
    assert type(found) is type(expected), f"{found}\n{expected}"
    if found is None:
        return
    if isinstance(found, str):
        assert re.search(PLACES, found), found
        return
    returned, results = found
    assert case.odd.shape == (n_obs, n_vars)
    check_types(results, n_obs, n_vars)
    if results:
        check_round_trip(results, case.odd.obs_names, case.odd.var_names, folder / "results.h5ad")
    same(without_place(results), without_place(expected[1]))
    if isinstance(returned, pd.DataFrame):
        same(returned, expected[0])


def fuzz(name: str, kit: Any, n: int) -> None:
    """Draw `n` cases and check one function."""
    with tempfile.TemporaryDirectory() as folder:

        @settings(QUIET, max_examples=n)
        @given(data=st.data())
        def drawn(data: st.DataObject) -> None:
            case = data.draw(cases(Path(folder), sizes=(40, 25, 2) if name in SLOW else SIZES))
            try:
                check(name, case, kit, Path(folder))
            finally:
                plt.close("all")
                if case.odd.isbacked:
                    file = case.odd.filename
                    case.odd.file.close()
                    file.unlink()

        drawn()


@pytest.mark.parametrize("name", [name for name in CALLS if name not in SLOW])
def test_it_works_or_says_what_is_wrong(name, kit):
    fuzz(name, kit, 3 if name.startswith(("pp", "tl")) else 2)


@pytest.mark.long
@pytest.mark.parametrize("name", CALLS)
def test_it_works_or_says_what_is_wrong_in_many_cases(name, kit):
    fuzz(name, kit, 20 if name in SLOW else 300)
