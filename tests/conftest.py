"""Fixtures of hand-made data, and the real files beside the checkout where there are any."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import make_adata, make_vocabulary

import scgeneformer as gf

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _quiet():
    with gf.settings.override(progress=False):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real dictionaries, data and reference values."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip("no folder 'shared' with real data and reference values beside the checkout")
    return SHARED


@pytest.fixture(params=[False, True], ids=["no special tokens", "cls and eos"])
def vocabulary(request) -> Vocabulary:
    return make_vocabulary(special=request.param)


@pytest.fixture
def adata():
    return make_adata()
