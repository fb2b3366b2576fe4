"""Several processes and one hub cache; a process that is killed while it fetches."""

import os
import subprocess
import sys
import time
from threading import Barrier, Event

import pytest

from scgeneformer import models

WEIGHTS = "tiny/model.safetensors"
CODE = """
import sys
from pathlib import Path
from scgeneformer import models
from scgeneformer.models import _registry
_registry.TABLE = Path(sys.argv[1])
print(models.download("Tiny").folder)
"""


@pytest.fixture
def fetch(hub, tmp_path):
    """Function that begins to fetch the model in another process."""
    begun = []

    def begin():
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
        env |= {"HF_HUB_CACHE": str(hub.cache), "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.server.url}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", CODE, str(tmp_path / "models.toml")]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def check_whole(hub):
    for path in hub.files:
        if path.startswith(("tiny/", "dictionaries/")):
            assert hub.snapshot(path).read_bytes() == hub.files[path]
    assert models.load("Tiny", device="cpu").n_blocks == 2


def test_two_processes_that_fetch_at_once_make_one_whole_model(hub, fetch):
    hub.server.meet = {path: Barrier(2) for path in ("tiny/config.json", WEIGHTS)}  # both begin at the same time
    both = [fetch(), fetch()]
    told = [process.communicate(timeout=120) for process in both]
    hub.server.meet = {}
    assert [process.returncode for process in both] == [0, 0], told
    assert {out.strip() for out, _ in told} == {str(hub.snapshot("tiny"))}
    assert len(list(hub.cache.rglob("blobs/*"))) == len(
        {hub.files[p] for p in hub.files if p.startswith(("tiny/", "dict"))}
    )
    n_requests = hub.server.n_requests
    check_whole(hub)
    assert hub.server.n_requests == n_requests


@pytest.mark.long
def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_that_counts(hub, fetch):
    hub.server.hold = {WEIGHTS: Event()}
    process = fetch()
    for _ in range(1200):
        if hub.server.requests["GET", WEIGHTS]:
            break
        time.sleep(0.05)
    time.sleep(0.2)
    process.kill()
    process.wait()
    hub.server.hold.pop(WEIGHTS).set()
    assert not hub.snapshot(WEIGHTS).exists()
    assert not models.available().loc["Tiny", "downloaded"]
    models.download("Tiny")
    check_whole(hub)
    assert hub.server.requests["GET", "tiny/config.json"] == 1  # what was whole was kept
