"""A scan that is killed goes on where it was, and gives what an undisturbed one gives."""

import os
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from toys import make_adata, make_model

import scgeneformer as gf
from scgeneformer._engine.perturbation import scan as engine

RUN = """
import sys, time
import anndata as ad
import scgeneformer as gf
from scgeneformer._adata.disk import run_store
from scgeneformer._engine.perturbation import perturbed_cells as perturbations

gf.settings.progress = False
perturbations.TOKENS_PER_BLOCK = 300
save = run_store.RunStore.save
def slowly(self, *args):
    save(self, *args)
    time.sleep(0.02)
run_store.RunStore.save = slowly
model, data, out, result = sys.argv[1:]
adata = ad.read_h5ad(data)
gf.tl.perturb(adata, model=gf.models.load(model, device="cpu"), positions="both", out=out)
adata.write_h5ad(result)
"""


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


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_at_any_moment_and_called_again_it_gives_the_same_bits(tmp_path):
    model, data = tmp_path / "model", tmp_path / "data.h5ad"
    gf.models.save(make_model(n_blocks=2), model)
    adata = make_adata(30)
    adata.write_h5ad(data)
    out, result = tmp_path / "run.zarr", tmp_path / "result.h5ad"
    kills, wait = 0, 0.05
    for attempt in range(12):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([sys.executable, "-c", RUN, model, data, out, result], stderr=log)
        while process.poll() is None and not (out / "parts").is_dir():
            time.sleep(0.01)
        time.sleep(wait * (1 + attempt))
        if attempt < 4 and process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert kills >= 1
    found = ad.read_h5ad(result)
    gf.tl.perturb(adata, model=gf.models.load(model, device="cpu"), positions="both", out=tmp_path / "whole.zarr")
    for key in ("geneformer_delete", "geneformer_delete_hold", "geneformer_delete_rank"):
        np.testing.assert_array_equal(found.layers[key].indices, adata.layers[key].indices)
        np.testing.assert_array_equal(found.layers[key].data, adata.layers[key].data)


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
