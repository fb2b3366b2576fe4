"""From the shell: killed at any moment and resumed, a command gives what an undisturbed one gives; files stay whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal
from test_memory import N_GENES, write_cells
from toys import make_model
from typer.testing import CliRunner

import scgeneformer as gf
from scgeneformer._adata.disk import files
from scgeneformer._lock import Lock
from scgeneformer.cli import app

SERVER = """
import atexit, gc, json, os, sys
import accelerate, anndata, h5py, torch, transformers, zarr
from transformers import BertModel
import scgeneformer
from scgeneformer._adata.disk import parts, run_store
from scgeneformer._adata import tokens
from scgeneformer._engine import embedding, gene_sums
from scgeneformer._engine.perturbation import perturbed_cells as perturbations, scan
from scgeneformer.cli import app
from scgeneformer.settings import settings

settings.progress = False
scgeneformer.tl.tokenize(scgeneformer.datasets.pbmc68k(), "mini")  # loads what is compiled
tokens.ROWS_PER_BLOCK, perturbations.TOKENS_PER_BLOCK = 8, 2000
parts.SECONDS, parts.SHARE = 0, 0
atexit.register(gc.freeze)  # as the command does
print(0, flush=True)
for line in sys.stdin:
    if not (pid := os.fork()):
        app(json.loads(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


class Shell:
    """Runs commands in processes of their own, all forked from one that has imported everything."""

    def __init__(self, log):
        self.log = log
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self._line()  # it is ready

    def start(self, *words):
        """Start a command; gives the number of its process."""
        self.server.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self.server.stdin.flush()
        return int(self._line())

    def wait(self):
        """Exit code of the command, negative where a signal ended it."""
        return int(self._line())

    def _line(self):
        while True:
            if not (line := self.server.stdout.readline()):
                pytest.fail(self.said())
            if line.strip().lstrip("-").isdigit():  # not what the command says itself
                return line

    def run(self, *words):
        self.start(*words)
        assert self.wait() == 0, self.said()

    def said(self):
        """What all commands wrote to stderr so far."""
        self.log.seek(0)
        return self.log.read()


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    with (tmp_path_factory.mktemp("shell") / "log").open("w+") as log:
        running = Shell(log)
        yield running
        running.server.stdin.close()
        running.server.stdout.close()
        running.server.wait()


@pytest.fixture
def cells():
    """Real cells, in four blocks."""
    adata = gf.datasets.pbmc68k()[:30]
    return ad.AnnData(sp.csr_matrix(adata.X), obs=adata.obs[["cell_type"]], var=adata.var[[]])


def store(adata, path):
    files.format_of(path).write(adata, path)
    return path


def same(found, expected):
    """Whether two files hold the same bits under the same keys."""
    found, expected = (files.format_of(path).read(path) for path in (found, expected))
    for slot in ("obs", "obsm", "varm", "layers"):
        assert [*getattr(found, slot)] == [*getattr(expected, slot)]
        for key, values in getattr(expected, slot).items():
            pair = [getattr(found, slot)[key], values]
            pair = [x.data if sp.issparse(x) else np.asarray(x) for x in pair]
            np.testing.assert_array_equal(*pair, err_msg=f"{slot} {key}")
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    assert found.uns.keys() == expected.uns.keys()


COMMANDS = {
    "embed": ("embed", "--layer", "-2", "--groupby", "cell_type"),
    "genes": ("embed-genes", "--layer", "-2,-1", "--groupby", "cell_type", "--agg", "var"),
    "perturb": ("perturb", "--genes", "CD74", "--genes", "LYZ", "--positions", "both", "--sample", "20"),
    "tokenize": ("tokenize",),
}


def killed_and_resumed(shell, command, source, suffix, n_kills, seed, tmp_path):
    """Kill a command at `n_kills` random moments, resume it each time, and compare with one that nobody disturbed."""
    words, target = [*COMMANDS[command], "--model", "mini"], tmp_path / f"out{suffix}"
    start = time.monotonic()
    shell.run(*words, source, "--out", whole := tmp_path / f"whole{suffix}")
    took, rng, kills, before = time.monotonic() - start, np.random.default_rng(seed), 0, source.read_bytes()
    finished = []
    while kills < n_kills:
        pid = shell.start(*words, source, "--out", target, "--resume", "--overwrite")
        time.sleep(rng.uniform(0, took) * (1 if kills % 2 else 0.7))
        os.kill(pid, signal.SIGKILL) if _alive(pid) else None
        kills += (code := shell.wait()) == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), shell.said()
        finished.append(len([*tmp_path.glob(f"{target.name}.parts/parts/[!.]*")]))
        if target.exists():  # a reader sees all of it
            same(target, whole)
    shell.run(*words, source, "--out", target, "--resume", "--overwrite")
    same(target, whole)
    assert source.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, target.name, whole.name])
    return finished


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("command", "suffix"), [("embed", ".h5ad"), ("perturb", ".zarr")])
def test_killed_twice_and_resumed_it_gives_the_same_bits(shell, cells, command, suffix, tmp_path):
    source = store(cells[:18], tmp_path / "cells.h5ad")
    killed_and_resumed(shell, command, source, suffix, 2, 0, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_ten_times_and_resumed_it_gives_the_same_bits(shell, cells, command, suffix, tmp_path):
    source = store(cells, tmp_path / "cells.h5ad")
    finished = killed_and_resumed(shell, command, source, suffix, 10, sum(map(ord, command + suffix)), tmp_path)
    assert max(finished) > 0 or command == "tokenize"  # whose parts take milliseconds: a kill may miss them all


@pytest.mark.parametrize(
    "moment", [pytest.param(0.35, id="early"), pytest.param(0.9, marks=pytest.mark.long, id="late")]
)
def test_ctrl_c_leaves_the_file_as_it_was_and_resume_goes_on(shell, cells, moment, tmp_path):
    path = store(cells, tmp_path / "cells.h5ad")
    words, before = (*COMMANDS["embed"], "--model", "mini", path, "--in-place"), path.read_bytes()
    pid, folder = shell.start(*words), tmp_path / "cells.h5ad.parts" / "parts"
    while _alive(pid) and len([*folder.glob("[!.]*")]) < moment * 4:
        time.sleep(0.01)
    os.kill(pid, signal.SIGINT)
    assert shell.wait() == 130, shell.said()
    said = shell.said().splitlines()[-1]
    assert said == f"Interrupted. What was finished is kept in {folder.parent}; {said.split('; ')[1]}"
    assert said.endswith("the same command with --resume goes on from there.")
    assert path.read_bytes() == before
    shell.run(*words, "--resume")
    gf.tl.embed_cells(cells, "mini", groupby="cell_type")
    np.testing.assert_allclose(ad.read_h5ad(path).obsm["X_geneformer"], cells.obsm["X_geneformer"], atol=1e-5)
    assert os.listdir(tmp_path) == [path.name]


@pytest.fixture
def at_most():
    """Function after which files may have so many bytes: the disk is full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("suffix", "n_bytes"),
    [(".h5ad", 200), (".zarr", 200), (".h5ad", 5_000), (".h5ad", 20_000)],
    ids=["while the store is made", "the same", "while rows are kept", "while the result is written"],
)
def test_a_full_disk_is_told_in_one_line_and_the_old_file_stays(cells, suffix, n_bytes, tmp_path, at_most, monkeypatch):
    monkeypatch.setattr("scgeneformer._adata.tokens.ROWS_PER_BLOCK", 2)
    source, target = store(cells[:10], tmp_path / "cells.h5ad"), store(cells[:4], tmp_path / f"old{suffix}")
    words = ("embed", source, "--model", "mini", "--out", target, "--overwrite")
    at_most(n_bytes)
    result = CliRunner().invoke(app, [*map(str, words)])
    at_most(2**30)
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines)) == (1, 1), result.stderr
    assert lines[0].startswith(f"Error: There is no room left to write {tmp_path}")
    assert "(File too large). What was there before is as it was. Free some space, or name another place." in lines[0]
    assert_equal(files.format_of(target).read(target), cells[:4].copy())
    begun = tmp_path / f"old{suffix}.parts"
    assert begun.exists() == ("the same command with --resume goes on" in lines[0])
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, target.name] + [begun.name] * begun.exists())
    result = CliRunner().invoke(app, [*map(str, words), "--resume"])
    assert result.exit_code == 0, result.stderr
    assert files.format_of(target).read(target).obsm["X_geneformer"].shape == (10, 128)
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, target.name])


@pytest.fixture
def begun(cells, tmp_path):
    """A file, and parts of its embedding that a killed run left."""
    path = store(cells[:10], tmp_path / "cells.h5ad")
    cells = cells[:10].copy()
    gf.tl.embed_cells(cells, "mini", layer=-2, out=tmp_path / "out.h5ad.parts")
    return path


def run(*words):
    """Exit code and last line on stderr of a command in this process."""
    result = CliRunner().invoke(app, [*map(str, words), "--model", "mini"])
    return result.exit_code, (result.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_parts_that_another_command_works_on_are_not_said_to_be_of_a_stopped_one(begun, resume, tmp_path):
    words = ["embed", begun, "--out", tmp_path / "out.h5ad", *resume]
    with Lock(tmp_path / "out.h5ad.parts"):
        code, told = run(*words)
    assert code == 1
    assert told == f"Error: Another call is working in {tmp_path}/out.h5ad.parts. Wait for it, or name another folder."
    if not resume:
        assert "holds what a command that was stopped had finished. Go on with it: --resume" in run(*words)[1]
    assert len([*tmp_path.glob("out.h5ad.parts/parts/[!.]*")]) == 1


def test_a_file_that_appears_meanwhile_is_kept_and_so_are_the_parts(begun, cells, tmp_path, monkeypatch):
    target, duplicate = tmp_path / "out.h5ad", files._duplicate

    def slow(*paths):
        duplicate(*paths)
        store(cells[:4], target)

    with monkeypatch.context() as patched:
        patched.setattr(files, "_duplicate", slow)
        code, told = run("embed", begun, "--out", target, "--resume")
    parts = tmp_path / "out.h5ad.parts"
    kept = f"What was finished is kept in {parts}; the same command with --overwrite --resume goes on from there."
    assert code == 1
    assert told.startswith(
        f"Error: {target} was made by another call or program in the meantime, and is left as it is."
    )
    assert told.endswith(f"Name another place, or replace it: --overwrite. {kept}")
    assert_equal(ad.read_h5ad(target), cells[:4].copy())
    assert run("embed", begun, "--out", target, "--overwrite", "--resume")[0] == 0
    assert ad.read_h5ad(target).obsm["X_geneformer"].shape == (10, 128)
    assert sorted(os.listdir(tmp_path)) == sorted([begun.name, target.name])


def test_a_command_that_must_be_corrected_is_not_said_to_go_on(begun, tmp_path):
    target, parts = tmp_path / "out.h5ad", tmp_path / "out.h5ad.parts"
    words = ["embed", begun, "--out", target, "--resume"]
    assert run("embed", tmp_path / "cell.h5ad", *words[2:]) == (1, f"Error: There is no file {tmp_path}/cell.h5ad.")
    _, told = run(*words, "--layer", "-1")
    assert told.startswith(f"Error: {parts} holds the parts of a run with other parameters or data (different: 'layer")
    assert run(*words)[0] == 0


def test_a_link_in_a_circle_is_an_error_in_one_line(begun, tmp_path):
    (tmp_path / "loop.h5ad").symlink_to("loop.h5ad")
    told = f"Error: {tmp_path}/loop.h5ad is a link in a circle, which leads nowhere. Name another place."
    assert run("embed", begun, "--out", tmp_path / "loop.h5ad") == (1, told)


PEAK = """
import sys
from scgeneformer.cli import app
from scgeneformer.settings import settings

settings.progress = False
for words in sys.argv[1:]:
    try:
        app(words.split())
    except SystemExit as done:
        assert not done.code
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_peak_memory_is_the_same_for_20_000_and_100_000_cells(tmp_path):
    """From h5ad to zarr: 24 MB of counts and 1.3 MB of embeddings, or five times as much."""
    gf.models.save(make_model(n_genes=N_GENES, input_size=64, n_blocks=2), tmp_path / "model")
    paths = [write_cells(tmp_path / f"{n}.h5ad", n, "csr") for n in (5_000, 20_000, 100_000)]
    calls = [f"embed {path} --model {tmp_path / 'model'} --out {path.with_suffix('.zarr')}" for path in paths]
    peaks = []
    for call in calls[1:]:
        run = subprocess.run([sys.executable, "-c", PEAK, calls[0], call], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        shutil.rmtree(paths[0].with_suffix(".zarr"))
        peaks.append(int(run.stdout.splitlines()[-1]))
    assert ad.read_zarr(paths[2].with_suffix(".zarr")).obsm["X_geneformer"].shape == (100_000, 16)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)
