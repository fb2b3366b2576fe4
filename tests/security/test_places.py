"""Names of models, links in their directories, and what a hub says its files are."""

import contextlib
import shutil
from pathlib import Path

import pytest
from models.conftest import COMMIT

from scgeneformer import models
from scgeneformer._errors import ModelError
from scgeneformer.models._source import parse

NAMES = [
    *("../../x", "a/../b", "lab/../../etc", "lab/models/../../../x", "lab/models/a/../b", "lab/models@../x"),
    *("..\\..\\x", "lab\\models", "lab/models/a\\..\\b", "C:\\x", "\\\\server\\x", "/etc/passwd", "file:///etc"),
    *("a\0b", "lab/mod\0els", "lab/models\n", "\x1b[2J", "lab/\x1b[31mx", "lab/models/\u202ex", "lab/\ud800", "\ud800"),
    *(
        "~nobody-of-this-name/x",
        "x" * 5000,
        "lab/" + "x" * 5000,
        "lab/models/" + "x" * 5000,
        "lab/a--b",
        "lab/models@",
        "lab/models/.hidden",
        "lab/models//x",
    ),
    *("https://example.org/lab/models", "git+ssh://x/y", "lab/models?x=1", "lab/models#x", "lab/%2e%2e/x", "", " "),
]


def test_names_that_lead_astray_are_refused(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for name in NAMES:
        with pytest.raises(ModelError) as caught:
            models.download(name)
        assert not {"\0", "\n", "\x1b", "\u202e"} & set(str(caught.value)), name
    assert hub.server.n_requests == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_paths_of_other_types_are_refused():
    for name in (Path("/no/such/\x1b[31m"), b"lab/models", 5, ["lab/models"]):
        with pytest.raises(ModelError) as caught:
            parse(name)
        assert "\x1b" not in str(caught.value)


class Bytes:
    def __fspath__(self):
        return b"/tmp"


def test_a_path_of_bytes_is_no_directory():
    with pytest.raises(ModelError, match=r"There is no directory b'/tmp'"):
        parse(Bytes())


def test_links_to_files_elsewhere_are_read(ours, tmp_path):
    """As people link weights, and as the hub's cache is made."""
    store = tmp_path / "store"
    store.mkdir()
    for path in list(ours.iterdir()):
        shutil.move(path, store / path.name)
        path.symlink_to(store / path.name)
    assert models.load(ours, device="cpu").n_blocks == 2


def test_links_out_of_a_model_are_not_copied_along(ours, tmp_path, log):
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    for name in ("README.md", "metrics.json"):
        (ours / name).symlink_to(secret)
    saved = models.save(ours, tmp_path / "saved")
    assert not {"README.md", "metrics.json"} & {path.name for path in saved.iterdir()}
    assert f"README.md is a link out of the model's directory, to {secret}: not copied" in log()


def test_what_lies_in_the_hub_cache_is_copied_along(hub, tmp_path):
    from huggingface_hub import hf_hub_download

    hub.files["complete/README.md"] = b"card"
    found = models.download("lab/models/complete")
    hf_hub_download("lab/models", "complete/README.md", revision=COMMIT)
    assert (found.folder / "README.md").is_symlink()
    assert (models.save(found, tmp_path / "saved") / "README.md").read_text() == "card"


def test_links_are_replaced_not_written_through(ours, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    target = tmp_path / "target"
    models.save(ours, target)
    for path in list(target.iterdir()):
        path.unlink()
        path.symlink_to(mine)
    models.save(ours, target, overwrite=True)
    assert mine.read_text() == "mine"
    assert not any(path.is_symlink() for path in target.iterdir())
    assert models.load(target, device="cpu").n_blocks == 2


def test_links_that_lead_nowhere_or_in_circles(ours):
    for target in ("nowhere", "config.json", "/dev/zero", "/"):
        (ours / "config.json").unlink()
        (ours / "config.json").symlink_to(target)
        with pytest.raises(ModelError, match="is not a model directory"):
            models.load(ours, device="cpu")


def test_a_link_in_the_cache_does_not_delete_what_it_leads_to(hub, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    models.download("Tiny")
    path = hub.snapshot("tiny/model.safetensors")
    path.unlink()
    path.symlink_to(mine)
    with pytest.raises(ModelError, match="not the published file"):
        models.load("Tiny", device="cpu")
    assert mine.read_text() == "mine"
    assert models.load("Tiny", device="cpu").n_blocks == 2


def test_of_the_files_of_a_hub_only_known_names_are_fetched(hub):
    odd = ["token_dictionary.exe", "token_dictionary_\\..\\x.pkl", "gene_median_dictionary_x.pkl.sh", "run.py"]
    hub.files.update({f"complete/{name}": b"x" for name in odd})
    hub.files["complete/gene_name_id_dict_x.pkl"] = b"x"
    models.download("lab/models/complete")
    fetched = {path.removeprefix("complete/") for method, path in hub.server.requests if method == "GET"}
    assert fetched <= {"api", "config.json", "model.safetensors", "genes.tsv", "geneformer.json", "aliases.tsv"}


def test_dictionaries_without_number_are_not_fetched(hub):
    hub.files.update({f"tuned/token_dictionary_{i}.pkl": b"x" for i in range(1000)})
    with pytest.raises(ModelError, match=r"holds several dictionaries of one kind .* Fetch those of the model by hand"):
        models.download("lab/models/tuned")
    assert not any("token_dictionary" in path for _, path in hub.server.requests)


@pytest.mark.parametrize("header", ["X-Repo-Commit", "ETag", "X-Linked-Etag"])
def test_a_hub_that_names_places_outside_the_cache(hub, header, tmp_path, monkeypatch):
    outside = "../../../../outside"
    monkeypatch.setattr(hub.server, "headers", {header: f'"{outside}"' if "tag" in header.lower() else outside})
    before = {path for path in tmp_path.rglob("*") if hub.cache not in (path, *path.parents)}
    with contextlib.suppress(ModelError):
        models.download("lab/models/complete")
    assert {path for path in tmp_path.rglob("*") if hub.cache not in (path, *path.parents)} == before
