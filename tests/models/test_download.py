import os
import subprocess
import sys

import pytest

from scgeneformer import models
from scgeneformer._errors import ModelError, ModelNotFoundError
from scgeneformer.models import _weights

from .conftest import COMMIT, GENES, write_pickles

WEIGHTS = "tiny/model.safetensors"


@pytest.fixture
def offline(monkeypatch):
    from huggingface_hub import constants

    def switch():
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    return switch


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The hub client waits seconds between its retries."""
    import time

    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_first_load_fetches_what_is_needed_and_nothing_else(hub):
    model = models.load("tiny", device="cpu")
    assert (model.name, model.source, model.revision) == ("Tiny", "lab/models", COMMIT)
    assert model.folder == hub.snapshot("tiny")
    assert model.vocabulary.n_tokens == len(GENES) + 4
    fetched = {path for method, path in hub.server.requests if method == "GET"}
    assert fetched == {path for path in hub.files if path.startswith(("tiny/", "dictionaries/"))}


def test_warm_cache_needs_no_network(hub):
    models.load("Tiny", device="cpu")
    n_requests = hub.server.n_requests
    models.clear_cache()
    hub.server.stop()
    assert models.load("Tiny", device="cpu").n_blocks == 2
    assert models.download("Little").folder == hub.snapshot("tiny")
    assert hub.server.n_requests == n_requests
    assert sum(_weights.READS.values()) == 2


def test_download_returns_a_path_like_record(hub):
    found = models.download("Tiny")
    assert os.fspath(found) == str(hub.snapshot("tiny"))
    assert (found.name, found.repo, found.revision) == ("Tiny", "lab/models", COMMIT)
    assert found.dictionaries == hub.snapshot("dictionaries")
    assert models.load(found, dictionaries=found.dictionaries, device="cpu").n_blocks == 2


def test_the_vocabulary_comes_without_the_weights(hub):
    assert models.load_vocabulary("Tiny").n_tokens == 34
    assert ("GET", WEIGHTS) not in hub.server.requests
    assert models.load_vocabulary("lab/models/complete").n_tokens == 34
    assert ("GET", "complete/model.safetensors") not in hub.server.requests


def test_own_dictionaries_spare_the_download(hub, tmp_path):
    models.load("Tiny", dictionaries=write_pickles(tmp_path / "own"), device="cpu")
    assert not any(path.startswith("dictionaries/") for _, path in hub.server.requests)


def test_an_interrupted_transfer_is_resumed(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept of a broken transfer
    hub.server.cut[WEIGHTS] = [5000]
    models.download("Tiny")
    assert hub.snapshot(WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert hub.server.ranges == ["bytes=5000-"]


def test_a_failed_transfer_keeps_what_is_complete_and_can_be_repeated(hub):
    hub.server.broken[WEIGHTS] = 1
    with pytest.raises(ModelNotFoundError, match=r"Fetching Tiny \(tiny/model.safetensors\) failed.*call again.*mini"):
        models.download("Tiny")
    assert not hub.snapshot(WEIGHTS).exists()
    assert hub.snapshot("tiny/config.json").exists()
    models.download("Tiny")
    assert hub.server.requests["GET", "tiny/config.json"] == 1
    assert hub.server.requests["GET", WEIGHTS] == 2


def test_a_transfer_that_never_ends_well_is_told_and_can_be_repeated(hub):
    hub.server.cut[WEIGHTS] = [0] * 20
    with pytest.raises(ModelNotFoundError, match="Fetching Tiny"):
        models.download("Tiny")
    assert not hub.snapshot(WEIGHTS).exists()
    hub.server.cut.clear()
    assert models.load("Tiny", device="cpu").n_blocks == 2


@pytest.mark.parametrize("path", [WEIGHTS, "dictionaries/token_dictionary_gc104M.pkl", "tiny/config.json"])
def test_a_wrong_checksum_is_refused_and_removed(hub, path):
    hub.server.altered[path] = hub.files[path][:-1] + b"?"
    with pytest.raises(ModelError, match=r"not the published file: SHA-256 .* removed from the cache"):
        models.load("Tiny", device="cpu")
    assert not hub.snapshot(path).exists()
    assert not any(blob.read_bytes() == hub.server.altered[path] for blob in hub.cache.rglob("blobs/*"))
    hub.server.altered.clear()
    assert models.load("Tiny", device="cpu").n_blocks == 2


def test_a_file_that_was_changed_in_the_cache_is_found_out(hub):
    models.download("Tiny")
    hub.snapshot(WEIGHTS).resolve().write_bytes(b"changed")
    with pytest.raises(ModelError, match="not the published file"):
        models.load("Tiny", device="cpu")
    assert models.load("Tiny", device="cpu").n_blocks == 2


def test_a_place_on_the_hub_with_its_own_vocabulary_needs_nothing_else(hub):
    model = models.load("lab/models/complete", device="cpu")
    assert (model.name, model.source, model.revision) == ("lab/models/complete", "lab/models", COMMIT)
    assert model.vocabulary.aliases
    models.clear_cache()
    hub.server.stop()
    assert models.load("lab/models/complete", device="cpu").revision == COMMIT
    assert models.load(f"lab/models/complete@{COMMIT}", device="cpu").checksum == model.checksum


def test_a_fine_tuned_model_takes_the_dictionaries_of_its_repository(hub):
    model = models.load("lab/models/tuned", device="cpu")
    assert model.vocabulary.n_tokens == 34
    assert models.download("lab/models/tuned").dictionaries == hub.snapshot("dictionaries")
    models.clear_cache()
    hub.server.stop()
    assert models.load("lab/models/tuned", device="cpu").name == "lab/models/tuned"


def test_a_partly_cached_place_is_used_offline_with_own_dictionaries(hub, tmp_path, offline):
    from huggingface_hub import hf_hub_download

    for name in ("config.json", "model.safetensors"):
        hf_hub_download("lab/models", f"tuned/{name}")
    offline()
    with pytest.raises(ModelError, match=r"no vocabulary.*dictionaries="):
        models.load("lab/models/tuned", device="cpu")
    assert models.load("lab/models/tuned", dictionaries=write_pickles(tmp_path / "own"), device="cpu").n_blocks == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("lab/nothing", "no repository lab/nothing"),
        ("lab/models/tiny@v9", "lab/models on the hub has no revision 'v9'"),
        ("lab/models/absent", "lab/models on the hub, revision main, has no file absent/config.json"),
        (f"lab/models/complete@{'b' * 40}", "has no revision 'bbbb"),
    ],
)
def test_unknown_repositories_revisions_and_files_are_named(hub, model, message):
    with pytest.raises(ModelNotFoundError, match=message):
        models.load(model, device="cpu")


def test_a_place_without_weights_is_refused(hub):
    del hub.files["complete/model.safetensors"]
    with pytest.raises(ModelNotFoundError, match=r"has no file complete/model\.safetensors"):
        models.load("lab/models/complete", device="cpu")


REMEDIES = r"(?s)not in the hub cache.*scgeneformer download {}.*copy.*HF_HOME.*model=\"mini\" works now"


@pytest.mark.parametrize("model", ["Tiny", "lab/models/complete"])
def test_offline_and_not_cached_the_remedies_are_named(hub, offline, model):
    offline()
    with pytest.raises(ModelNotFoundError, match=REMEDIES.format(model)) as caught:
        models.load(model, device="cpu")
    assert isinstance(caught.value, FileNotFoundError)
    assert hub.server.n_requests == 0


@pytest.mark.parametrize("model", ["Tiny", "lab/models/complete"])
def test_where_the_server_is_down_the_remedies_are_named(hub, model):
    hub.server.stop()
    with pytest.raises(ModelNotFoundError, match=REMEDIES.format(model)):
        models.load(model, device="cpu")


def test_local_directories_are_returned_as_they_are(hub, checkpoint):
    assert models.download(checkpoint).folder == checkpoint
    assert models.download("mini").name == "mini"
    assert hub.server.n_requests == 0


CODE = """
import sys
from pathlib import Path
import scanpy
before = "torch" in sys.modules
from scgeneformer import models
from scgeneformer.models import _registry
_registry.TABLE = Path(sys.argv[1])
print(models.download("Tiny").folder)
print("torch" in sys.modules and not before)  # anndata 0.11 loads it by itself
"""


def test_environment_variables_of_the_hub_are_respected(hub, tmp_path):
    home = tmp_path / "home"

    def run(**variables):
        env = {**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
        env = {name: value for name, value in env.items() if name not in ("HF_HUB_CACHE", "HF_HUB_OFFLINE")}
        command = [sys.executable, "-c", CODE, str(tmp_path / "models.toml")]
        return subprocess.run(command, capture_output=True, text=True, env=env | variables, check=False)

    first = run(HF_ENDPOINT=hub.server.url)
    expected = home / "hub" / "models--lab--models" / "snapshots" / COMMIT / "tiny"
    assert (first.stdout.split(), first.returncode) == ([str(expected), "False"], 0), first.stderr
    hub.server.stop()
    assert run(HF_HUB_OFFLINE="1").stdout == first.stdout
