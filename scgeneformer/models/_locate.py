"""Find the files of a model, fetched where needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scgeneformer.models._fetch import Download, fetch_model
from scgeneformer.models._files import Files, find_files, find_vocabulary
from scgeneformer.models._layouts import layout_of

if TYPE_CHECKING:
    import os


def locate(model: str | os.PathLike[str], dictionaries: str | os.PathLike[str] | None = None) -> Files:
    """Find all files of a model; with a vocabulary of the user's where `dictionaries` names one."""
    found = fetch_model(model, with_vocabulary=dictionaries is None)
    vocabulary = _vocabulary(found, dictionaries)
    return find_files(found.folder, found.name, found.repo or str(found.folder), found.revision, vocabulary)


def locate_vocabulary(
    model: str | os.PathLike[str], dictionaries: str | os.PathLike[str] | None = None
) -> tuple[Path, Path]:
    """Find the directory of the vocabulary and the config file of a model, without its weights."""
    found = fetch_model(model, with_vocabulary=dictionaries is None, with_weights=False)
    return _vocabulary(found, dictionaries), found.folder / layout_of(found.folder).CONFIG_FILE


def _vocabulary(found: Download, dictionaries: str | os.PathLike[str] | None) -> Path:
    own = None if dictionaries is None else Path(dictionaries).expanduser().absolute()
    return find_vocabulary(found.folder, own, found.dictionaries)
