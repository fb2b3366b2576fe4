"""Bring all files of a model onto this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from scgeneformer._engine.dictionaries import KINDS
from scgeneformer._errors import ModelError, ModelNotFoundError
from scgeneformer.models import _hub, _registry
from scgeneformer.models._geneformer import (
    CONFIG_FILE,
    VOCABULARY_FILES,
    WEIGHT_FILES,
    find_weights,
    has_vocabulary,
)
from scgeneformer.models._source import HubPlace, parse

_DICTIONARY = re.compile(rf"({'|'.join(KINDS)})[\w.-]*\.pkl", re.ASCII)


@dataclass(frozen=True)
class Download:
    """A model on this machine; usable wherever a path is.

    Parameters
    ----------
    name
        Registry name, place on the hub, or name of the directory.
    folder
        Directory of its config and weights.
    dictionaries
        Directory of its vocabulary where that is not `folder`.
    repo, revision
        Where it came from, at which commit; empty for a local directory.
    """

    name: str
    folder: Path
    dictionaries: Path | None = None
    repo: str = ""
    revision: str = ""

    def __fspath__(self) -> str:
        return str(self.folder)


def fetch_model(model: str | os.PathLike[str], *, with_vocabulary: bool = True, with_weights: bool = True) -> Download:
    """Bring the model onto this machine; without vocabulary or weights where they are not needed."""
    source = parse(model)
    if isinstance(source, HubPlace):
        return _fetch_place(source, with_vocabulary, with_weights)
    if isinstance(source, Path):
        return Download(source.resolve().name, source)
    if source.folder is not None:
        return Download(source.name, source.folder)
    return _fetch_entry(source, with_vocabulary, with_weights)


def _fetch_entry(entry: _registry.Entry, with_vocabulary: bool, with_weights: bool) -> Download:
    config = _join(entry.subfolder, CONFIG_FILE)
    weights = [path for path in entry.files if path != config and path not in entry.dictionaries]
    wanted = [config, *(entry.dictionaries if with_vocabulary else ()), *(weights if with_weights else ())]
    paths = _fetch_checked(entry, wanted)
    dictionaries = paths[entry.dictionaries[0]].parent if with_vocabulary else None
    return Download(entry.name, paths[config].parent, dictionaries, entry.repo, entry.revision)


def _fetch_checked(entry: _registry.Entry, wanted: list[str]) -> dict[str, Path]:
    """Fetch files of `entry`, each checked as soon as it is there."""
    paths = {}
    for path in wanted:
        paths[path] = _hub.fetch(entry.name, entry.repo, path, entry.revision)
        _hub.verify(paths[path], entry.files[path])
    return paths


def _fetch_place(place: HubPlace, with_vocabulary: bool, with_weights: bool) -> Download:
    known = _find_cached(place)
    if known is not None and _is_complete(known, with_vocabulary, with_weights):
        return known
    try:
        return _fetch_unlisted(place, with_vocabulary, with_weights)
    except ModelNotFoundError:
        if known is None:
            raise
        return known


def _is_complete(known: Download, with_vocabulary: bool, with_weights: bool) -> bool:
    vocabulary = not with_vocabulary or known.dictionaries is not None or has_vocabulary(known.folder)
    return vocabulary and (not with_weights or find_weights(known.folder) is not None)


def _find_cached(place: HubPlace) -> Download | None:
    """Return the model, or what there is of it, if its config is in the cache."""
    config = _hub.cached(place.repo, _join(place.subfolder, CONFIG_FILE), place.revision)
    if config is None:
        return None
    entry = _sibling(place, config)
    paths = [_hub.cached(entry.repo, path, entry.revision) for path in entry.dictionaries] if entry else []
    folders = [path.parent for path in paths if path is not None]
    dictionaries = folders[0] if folders and len(folders) == len(paths) else None
    depth = place.subfolder.count("/") + 1 if place.subfolder else 0
    commit = config.parents[depth].name  # of the snapshot that the file lies in
    return Download(place.name, config.parent, dictionaries, place.repo, commit)


def _fetch_unlisted(place: HubPlace, with_vocabulary: bool, with_weights: bool) -> Download:
    commit, names = _hub.list_folder(place.name, place.repo, place.subfolder, place.revision)
    for revision in (place.revision, commit):  # the first records which commit the revision is
        config = _hub.fetch(place.name, place.repo, _join(place.subfolder, CONFIG_FILE), revision)
    weights = next((name for name in WEIGHT_FILES if name in names), WEIGHT_FILES[0])
    ours = [name for name in names if name in VOCABULARY_FILES]
    vocabulary = ours if VOCABULARY_FILES[0] in ours else _dictionaries(names, place)
    for name in [*(vocabulary if with_vocabulary else []), *([weights] if with_weights else [])]:
        _hub.fetch(place.name, place.repo, _join(place.subfolder, name), commit)
    entry = _sibling(place, config) if with_vocabulary and not has_vocabulary(config.parent) else None
    paths = _fetch_checked(entry, list(entry.dictionaries)) if entry else {}
    dictionaries = next((path.parent for path in paths.values()), None)
    return Download(place.name, config.parent, dictionaries, place.repo, commit)


def _dictionaries(names: list[str], place: HubPlace) -> list[str]:
    """The dictionary pickles among the files of a place, one of each kind."""
    found = [name for name in names if _DICTIONARY.fullmatch(name)]
    if len(found) > len(KINDS):
        raise ModelError(
            f"{place.name} holds several dictionaries of one kind ({', '.join(found[:8])}). Fetch those of the model "
            "by hand, and name their folder: dictionaries='...'."
        )
    return found


def _sibling(place: HubPlace, config: Path) -> _registry.Entry | None:
    """Return an entry of the same repository whose vocabulary has the size that `config` gives."""
    from scgeneformer.models._config import read_config

    size = read_config(config).get("vocab_size")
    entries = _registry.entries().values()
    return next((entry for entry in entries if entry.repo == place.repo and entry.n_tokens == size), None)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
