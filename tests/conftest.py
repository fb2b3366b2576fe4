"""Fixtures of hand-made data, and the real files beside the checkout where there are any."""

from __future__ import annotations

import gc
import io
import os
import signal
from pathlib import Path

import pytest
import scanpy as sc
import toys
from anndata.tests.helpers import assert_equal
from hypothesis import settings
from toys import Stop, make_adata, make_model, make_vocabulary

import scgeneformer as gf

settings.register_profile("package", deadline=None)  # processors are shared: one slow example tells nothing
settings.load_profile("package")
SHARED = Path(__file__).resolve().parents[2] / "shared"

# Other processes that tests start run the package that is tested here, whatever files are in the current folder.
paths = [str(Path(gf.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}
# Threads that wait sleep: where processes share processors, those that spin keep the others from working.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A script that starts the tests in the background has them ignore Ctrl-C, and all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs in a process per processor, in at most four; tests that are named run in this process."""
    whole = config.args_source is config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput")
    whole &= not getattr(config.option, "cov_source", [])  # pytest-cov must be told -n where it is told --cov
    processes = getattr(config.option, "numprocesses", 0)  # None: pytest-xdist is there, and no -n was given
    if whole and processes is None:
        processes = config.option.numprocesses = "logical"
        config.option.maxprocesses, config.option.dist = 4, "worksteal"
    if processes:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each process


gc.disable()  # until all is imported


def pytest_collection_finish():
    """What was imported stays: Trainer, which collects garbage often, need not look through it each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _quiet():
    before = sc.settings.verbosity, sc.settings.logfile  # which commands change
    ours = vars(gf.settings).copy()
    gf.settings.progress = False
    yield
    vars(gf.settings).update(ours)
    sc.settings.verbosity, sc.settings.logfile = before


@pytest.fixture
def quick_umap(monkeypatch):
    """Without the import of umap; the example of the README, the demo in .ci/run and the full tutorials have it."""
    toys.quick_umap(monkeypatch.setattr)


@pytest.fixture
def stop_after(monkeypatch):
    """Function that lets training stop at a step."""
    from scgeneformer._training import network

    def at(step):
        left, real = [step], network.loss_of

        def loss(logits, *rest):
            if logits.requires_grad:
                left[0] -= 1
                if left[0] < 0:
                    monkeypatch.setattr(network, "loss_of", real)
                    raise Stop
            return real(logits, *rest)

        monkeypatch.setattr(network, "loss_of", loss)

    return at


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real dictionaries, data and reference values."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip("no folder 'shared' with real data and reference values beside the checkout")
    return SHARED


@pytest.fixture(params=[False, True], ids=["no special tokens", "cls and eos"])
def vocabulary(request):
    return make_vocabulary(special=request.param)


@pytest.fixture
def adata():
    return make_adata()


@pytest.fixture(params=[False, True], ids=["no special tokens", "cls and eos"])
def model(request):
    return make_model(special=request.param)


@pytest.fixture
def toy():
    """A model without special tokens."""
    return make_model()


@pytest.fixture
def log():
    """Function that gives what scanpy's logger wrote so far; hints included."""
    before = sc.settings.logfile, sc.settings.verbosity
    stream = io.StringIO()
    sc.settings.logfile, sc.settings.verbosity = stream, 3
    yield stream.getvalue
    sc.settings.logfile, sc.settings.verbosity = before


@pytest.fixture
def unchanged(adata):
    """After the test, `adata` must be exactly as it was before."""
    before = adata.copy()
    yield adata
    assert_equal(adata, before)
