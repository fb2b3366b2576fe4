import json

import pytest

from scgeneformer import models
from scgeneformer._errors import ModelError, ModelNotFoundError
from scgeneformer.models import _registry
from scgeneformer.models._source import HubPlace, parse


def test_available_lists_the_published_models():
    table = models.available()
    assert table.index.name == "name"
    assert list(table.index) == ["V1-10M", "V2-104M", "V2-316M", "V2-104M_CLcancer", "mini"]
    v2 = table.loc["V2-104M"]
    assert (v2.repo, v2.subfolder, v2.revision[:7]) == ("ctheodoris/Geneformer", "Geneformer-V2-104M", "05fcbeb")
    assert (v2.layers, v2.width, v2.input_size, v2.n_genes, v2.parameters) == (12, 768, 4096, 20271, 104386867)
    assert v2.special_tokens == "<pad> <mask> <cls> <eos>"
    assert v2.licence == "Apache-2.0"
    assert v2.size_mb == pytest.approx(425.1, abs=0.1)
    assert table.loc["V1-10M", "special_tokens"] == "<pad> <mask>"
    assert str(table["width"].dtype) == "Int64"
    assert table["downloaded"].map(type).eq(bool).all()


def test_every_entry_is_complete():
    for entry in _registry.entries().values():
        if entry.folder is not None:
            continue
        assert len(entry.files) == 6
        assert len(entry.dictionaries) == 4
        assert {f"{entry.subfolder}/config.json", f"{entry.subfolder}/model.safetensors"} < set(entry.files)
        assert all(len(file.sha256) == 64 and file.bytes > 0 for file in entry.files.values())


def test_checksums_are_those_of_the_hub(shared):
    rows = [line.split("\t") for line in (shared / "hub_files.tsv").read_text().splitlines()[1:]]
    published = {path: (sha, int(size)) for path, sha, size in rows}
    for entry in _registry.entries().values():
        assert {path: tuple(file) for path, file in entry.files.items()}.items() <= published.items()


def test_available_knows_what_is_in_the_cache(hub):
    assert not models.available().loc["Tiny", "downloaded"]
    models.download("Tiny")
    hub.server.stop()
    assert models.available().loc["Tiny", "downloaded"]


def test_available_describes_a_model_of_the_package_from_its_files(ours, monkeypatch):
    table = ours.parent / "models.toml"
    table.write_text('[models.own]\nfolder = "ours"\nlicence = "CC0-1.0"\n')
    monkeypatch.setattr(_registry, "TABLE", table)
    row = models.available().loc["own"]
    assert (row.layers, row.width, row.input_size, row.n_genes, row.downloaded) == (2, 16, 64, 30, True)
    assert row.parameters == 16 * (34 + 64 + 2) + 32 + 2 * 2224 + (16 * 16 + 16 + 32 + 34)
    assert models.load("OWN", device="cpu").name == "own"


@pytest.mark.parametrize(
    "name",
    ["V2-104M", "v2-104m", "Geneformer-V2-104M", "GENEFORMER-v2-104m", "ctheodoris/Geneformer/Geneformer-V2-104M"],
)
def test_names_and_aliases_are_found_in_any_case(name):
    assert parse(name).name == "V2-104M"


def test_the_root_of_the_repository_is_the_large_model():
    assert parse("ctheodoris/Geneformer").name == "V2-316M"


def test_unknown_names_list_the_valid_ones_and_the_closest():
    with pytest.raises(ModelError, match=r"no model 'V2-104'.*Did you mean 'V2-104M'.*V1-10M, V2-104M.*mini"):
        models.load("V2-104")


def test_places_on_the_hub_have_folder_and_revision():
    assert parse("lab/models") == HubPlace("lab/models")
    assert parse("lab/models/a/b") == HubPlace("lab/models", "a/b")
    assert parse("lab/models/a@v1.0") == HubPlace("lab/models", "a", "v1.0")
    assert parse("lab/models@refs/pr/1") == HubPlace("lab/models", revision="refs/pr/1")


@pytest.mark.parametrize(
    "name",
    [
        *("lab/models/../../etc", "lab/..", "lab/models/a@../b", "lab/mo..dels", "lab\\models", "..\\..\\etc"),
        *("lab/models/a//b", "lab/models/", "lab/models@", "lab/mod els", "lab/models\x00", "https://x.org/a", ""),
        *("lab/models/-x", "lab/möbel"),
    ],
)
def test_hostile_or_malformed_places_are_refused(name):
    with pytest.raises(ModelError):
        parse(name)


@pytest.mark.parametrize("name", ["/no/such/place", "./nowhere", "../nowhere", "~/nowhere-at-all"])
def test_directories_that_do_not_exist_are_not_looked_up_on_the_hub(name):
    with pytest.raises(ModelNotFoundError, match="no directory"):
        parse(name)


def test_a_local_directory_goes_before_the_hub_and_a_name_before_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab" / "models").mkdir(parents=True)
    (tmp_path / "mini").mkdir()
    assert parse("lab/models") == tmp_path / "lab" / "models"
    assert parse("mini").name == "mini"
    assert parse(tmp_path / "mini") == tmp_path / "mini"


def test_other_types_are_refused():
    with pytest.raises(ModelError, match="is a int"):
        models.load(3)


def test_the_embedded_model_fits_the_table():
    entry = _registry.entries()["mini"]
    row = models.available().loc["mini"]
    assert row.downloaded
    assert row.layers == json.loads((entry.folder / "config.json").read_text())["num_hidden_layers"]
    assert models.load("mini", device="cpu").n_blocks == row.layers
