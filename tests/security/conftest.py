"""The tiny models of the tests of models, written once and copied, and their hub."""

import shutil

import pytest
from models.conftest import fresh_cache, hub, vocabulary, write_pickles, write_weights  # noqa: F401

from scgeneformer._engine.vocabulary import write_vocabulary


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    write_pickles(write_weights(root / "tiny"))
    write_vocabulary(vocabulary(), write_weights(root / "ours"))
    return root


@pytest.fixture
def checkpoint(tmp_path, written):
    """A tiny checkpoint in the reference's layout, dictionaries beside it."""
    return shutil.copytree(written / "tiny", tmp_path / "tiny")


@pytest.fixture
def ours(tmp_path, written):
    """A tiny checkpoint in our layout."""
    return shutil.copytree(written / "ours", tmp_path / "ours")
