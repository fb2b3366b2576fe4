"""Fetch a model into the hub cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scgeneformer._engine.dictionaries import KINDS
from scgeneformer._errors import ModelError, ModelNotFoundError
from scgeneformer.models import _hub, _registry
from scgeneformer.models._files import CONFIG_FILE, VOCABULARY_FILES, WEIGHT_FILES, find_weights, has_vocabulary
from scgeneformer.models._source import HubPlace, parse


@dataclass(frozen=True)
class Download:
    """A model on this machine; usable wherever a path is.

    Parameters
    ----------
    name
        Registry name, or place on the hub.
    folder
        Directory of its config and weights.
    dictionaries
        Directory of its vocabulary if that is not `folder`.
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


def download(model: str | os.PathLike[str]) -> Download:
    """Fetch a model into the shared cache of the Hugging Face hub, or find it there.

    Files that are in the cache are not fetched again; if all are, no network is needed. Models known by name are
    pinned to a commit and their files are checked by SHA-256. ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``
    are respected.

    Parameters
    ----------
    model
        Registry name or ``org/repo[/subfolder][@revision]``. A revision that was fetched once, "main" too, stays at
        that commit; name another commit to move on. A local directory is returned as it is.

    Returns
    -------
    Where the model is: a path-like record with `name`, `folder`, `dictionaries`, `repo` and `revision`.

    Raises
    ------
    ModelNotFoundError
        If the model is neither on the hub nor in the cache, or there is no network.
    ModelError
        If a file is not the published one.

    See Also
    --------
    available : models known by name, and which are in the cache.
    load : load a model; fetches it where needed.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.models.download("mini").name
    'mini'
    """
    return fetch_model(model, with_vocabulary=True)


def fetch_model(model: str | os.PathLike[str], *, with_vocabulary: bool) -> Download:
    """Do as :func:`download` does; without vocabulary where the user brings one."""
    source = parse(model)
    if isinstance(source, HubPlace):
        return _fetch_place(source, with_vocabulary)
    if isinstance(source, _registry.Entry) and source.folder is None:
        return _fetch_entry(source, with_vocabulary)
    if isinstance(source, _registry.Entry):
        return Download(source.name, source.folder)  # type: ignore[arg-type]
    return Download(source.resolve().name, source)


def _fetch_entry(entry: _registry.Entry, with_vocabulary: bool) -> Download:
    wanted = [path for path in entry.files if with_vocabulary or not path.startswith(f"{entry.dictionaries}/")]
    return Download(
        name=entry.name,
        folder=_fetch_checked(entry, wanted)[f"{entry.subfolder}/{CONFIG_FILE}"].parent,
        dictionaries=_cached_folder(entry.repo, entry.dictionaries, entry.revision) if with_vocabulary else None,
        repo=entry.repo,
        revision=entry.revision,
    )


def _fetch_checked(entry: _registry.Entry, wanted: list[str]) -> dict[str, Path]:
    """Fetch files of `entry`, each checked as soon as it is there."""
    paths = {}
    for path in wanted:
        paths[path] = _hub.fetch(entry.name, entry.repo, path, entry.revision)
        _hub.verify(paths[path], entry.files[path])
    return paths


def _fetch_place(place: HubPlace, with_vocabulary: bool) -> Download:
    known = _find_cached(place)
    if known is not None and (not with_vocabulary or known.dictionaries or has_vocabulary(known.folder)):
        return known
    try:
        return _fetch_unlisted(place, with_vocabulary)
    except ModelNotFoundError:
        if known is None:
            raise
        return known


def _find_cached(place: HubPlace) -> Download | None:
    """Return the model if config and weights are in the cache."""
    config = _hub.cached(place.repo, _join(place.subfolder, CONFIG_FILE), place.revision)
    if config is None or find_weights(config.parent) is None:
        return None
    entry = _sibling(place, config)
    dictionaries = entry and all(_hub.cached(entry.repo, path, entry.revision) for path in _dictionary_paths(entry))
    return Download(
        name=place.name,
        folder=config.parent,
        dictionaries=_cached_folder(entry.repo, entry.dictionaries, entry.revision) if entry and dictionaries else None,
        repo=place.repo,
        revision=_commit(config, place.subfolder),
    )


def _fetch_unlisted(place: HubPlace, with_vocabulary: bool) -> Download:
    commit, names = _hub.list_folder(place.name, place.repo, place.subfolder, place.revision)
    config = _hub.fetch(place.name, place.repo, _join(place.subfolder, CONFIG_FILE), place.revision)
    weights = next((name for name in WEIGHT_FILES if name in names), WEIGHT_FILES[0])
    vocabulary = [name for name in names if name in VOCABULARY_FILES or name.startswith(KINDS)]
    for name in [*(vocabulary if with_vocabulary else []), weights]:  # weights last: with them all is there
        _hub.fetch(place.name, place.repo, _join(place.subfolder, name), commit)
    entry = _sibling(place, config) if with_vocabulary and not has_vocabulary(config.parent) else None
    if entry:
        _fetch_checked(entry, _dictionary_paths(entry))
    dictionaries = _cached_folder(entry.repo, entry.dictionaries, entry.revision) if entry else None
    return Download(place.name, config.parent, dictionaries, place.repo, commit)


def _sibling(place: HubPlace, config: Path) -> _registry.Entry | None:
    """Return an entry of the same repository whose vocabulary has the size that `config` gives."""
    from scgeneformer.models._weights import read_config

    size = read_config(config).vocab_size
    entries = _registry.entries().values()
    return next((entry for entry in entries if entry.repo == place.repo and entry.n_tokens == size), None)


def _dictionary_paths(entry: _registry.Entry) -> list[str]:
    return [path for path in entry.files if path.startswith(f"{entry.dictionaries}/")]


def _cached_folder(repo: str, folder: str, revision: str) -> Path:
    ...


def _commit(config: Path, subfolder: str) -> str:
    """Name of the snapshot that `config` lies in: the commit."""
    return config.parents[len(subfolder.split("/")) if subfolder else 0].name


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
