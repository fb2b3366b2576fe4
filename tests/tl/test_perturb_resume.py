"""A scan that is stopped goes on where it was, and gives what an undisturbed one gives; killed: test_out_of_core.py."""

import numpy as np
import pandas as pd
import pytest
from anndata.tests.helpers import assert_equal
from toys import make_adata

import scgeneformer as gf
from scgeneformer._engine.perturbation import scan as engine


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr("scgeneformer._engine.perturbation.perturbed_cells.TOKENS_PER_BLOCK", 300)


def count_blocks(monkeypatch):
    """Number of blocks that are really run from here on."""
    n, begin = [], engine.Collector.begin

    def counted(self, *args):
        n.append(1)
        begin(self, *args)

    monkeypatch.setattr(engine.Collector, "begin", counted)
    return n


def test_a_finished_run_is_read_and_not_run_again(adata, toy, tmp_path, monkeypatch):
    first = gf.tl.perturb(adata, ["G1", "G2"], model=toy, effects=True, out=tmp_path / "run", copy=True)
    n = count_blocks(monkeypatch)
    again = gf.tl.perturb(adata, ["G1", "G2"], model=toy, effects=True, out=tmp_path / "run", copy=True)
    assert not n
    assert_equal(first, again)


def test_an_interrupted_run_leaves_adata_alone_and_goes_on(unchanged, toy, tmp_path, monkeypatch):
    done = engine.Collector._results

    def interrupted(self, one):
        if one.block.number == 3:
            raise KeyboardInterrupt
        return done(self, one)

    with monkeypatch.context() as patched:
        patched.setattr(engine.Collector, "_results", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gf.tl.perturb(unchanged, model=toy, out=tmp_path / "run")
    assert len(list((tmp_path / "run" / "parts").iterdir())) == 3
    n = count_blocks(monkeypatch)
    found = gf.tl.perturb(unchanged, model=toy, out=tmp_path / "run", copy=True)
    n_blocks = len(list((tmp_path / "run" / "parts").iterdir()))
    assert len(n) == n_blocks - 3
    whole = gf.tl.perturb(unchanged, model=toy, copy=True)
    np.testing.assert_array_equal(found.layers["geneformer_delete"].data, whole.layers["geneformer_delete"].data)


@pytest.mark.parametrize(
    ("change", "different"),
    [({"layer": -1}, "layers"), ({"genes": ["G2"]}, "genes asked for"), ({"mode": "mask"}, "mode")],
)
def test_another_run_into_the_same_folder_is_refused(adata, toy, tmp_path, change, different):
    gf.tl.perturb(adata, ["G1"], model=toy, out=tmp_path / "run")
    with pytest.raises(gf.DataError, match=f"different: .*'{different}'"):
        gf.tl.perturb(adata, **({"genes": ["G1"], "model": toy, "out": tmp_path / "run"} | change))


def test_other_counts_are_refused(adata, toy, tmp_path):
    gf.tl.perturb(adata, ["G1"], model=toy, out=tmp_path / "run")
    with pytest.raises(gf.DataError, match=r"'shift-000000-.*', made from other counts or genes"):
        gf.tl.perturb(make_adata(seed=5), ["G1"], model=toy, out=tmp_path / "run")


def test_other_states_of_a_goal_are_another_run(adata, toy, tmp_path):
    adata.obs["state"] = np.resize(["ill", "well", "other"], adata.n_obs)
    goal = {"column": "state", "start": "ill", "goal": "well"}
    gf.tl.perturb(adata, ["G1"], model=toy, goal=goal, out=tmp_path / "run")
    with pytest.raises(gf.DataError, match="different: 'alternatives'"):
        gf.tl.perturb(adata, ["G1"], model=toy, goal=goal | {"alternatives": ["other"]}, out=tmp_path / "run")
    adata.obs.iloc[1, adata.obs.columns.get_loc("state")] = "other"  # a cell less of the goal
    with pytest.raises(gf.DataError, match="different: 'cells'"):
        gf.tl.perturb(adata, ["G1"], model=toy, goal=goal, out=tmp_path / "run")


def test_other_counts_of_the_cells_of_a_state_are_refused(adata, toy, tmp_path):
    adata.obs["state"] = np.resize(["ill", "well", "other"], adata.n_obs)
    asked = {"model": toy, "goal": {"column": "state", "start": "ill", "goal": "well"}, "out": tmp_path / "run"}
    gf.tl.perturb(adata, ["G1"], **asked)
    dense = adata.X.toarray()
    dense[2] = dense[2, ::-1]  # neither start nor goal
    adata.X = dense
    gf.tl.perturb(adata, ["G1"], **asked)
    adata.X[1] = dense[1, ::-1]  # the goal
    with pytest.raises(gf.DataError, match="different: 'counts of the states'"):
        gf.tl.perturb(adata, ["G1"], **asked)


@pytest.mark.parametrize("form", [np.array, pd.Index, tuple])
def test_the_same_genes_in_another_kind_of_list_are_the_same_run(adata, toy, tmp_path, monkeypatch, form):
    wanted = [("G1", "G2")] if form is tuple else ["G1", "G2"]
    gf.tl.perturb(adata, wanted, model=toy, out=tmp_path / "run")
    n = count_blocks(monkeypatch)
    gf.tl.perturb(adata, form(["G1", "G2"]), model=toy, out=tmp_path / "run")
    assert not n
