"""The models in the memory of this process, each there once."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from scgeneformer._engine.device import free_memory
from scgeneformer._errors import ModelError
from scgeneformer.models import _vocabulary
from scgeneformer.models._files import Files, find_files

if TYPE_CHECKING:
    import torch

    from scgeneformer.models._checksum import Stamp
    from scgeneformer.models._model import Model

WORKING_SPACE = 1.1  # room that loading takes, relative to the weights


class _Key(NamedTuple):
    files: Files
    state: tuple[Stamp, ...]
    device: str
    dtype: str


@dataclass
class _Entry:
    model: Model
    hits: int = 0


_entries: OrderedDict[_Key, _Entry] = OrderedDict()  # the least recently used first
_lock = RLock()


def _after_fork() -> None:
    """Make the lock anew in a child process: nobody there would release what a thread of the parent held."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


def cache_info() -> pd.DataFrame:
    """Show the models that are in memory.

    Returns
    -------
    One row per model, the least recently used first: `model`, `device`, `dtype`, `MB` of weights, and `hits`, how
    often it was used again instead of being loaded.

    See Also
    --------
    clear_cache : free them.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.models.cache_info().columns.tolist()
    ['model', 'device', 'dtype', 'MB', 'hits']
    """
    with _lock:
        rows = [(e.model.name, key.device, key.dtype, e.model.n_bytes / 1e6, e.hits) for key, e in _entries.items()]
    return pd.DataFrame(rows, columns=["model", "device", "dtype", "MB", "hits"])


def clear_cache() -> None:
    """Forget all models and vocabularies in memory and give their device memory back.

    A model that is still held in a variable stays in memory until that is gone, too.

    See Also
    --------
    cache_info : which models are in memory.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> model = gf.models.load("mini")
    >>> gf.models.clear_cache()
    >>> len(gf.models.cache_info())
    0
    """
    with _lock:
        on_cuda = any(key.device.startswith("cuda") for key in _entries)
        _entries.clear()
        _vocabulary.forget()
    if on_cuda:
        import torch

        torch.cuda.empty_cache()


def get_or_read(files: Files, device: torch.device, dtype: torch.dtype) -> Model:
    """Return the model of `files` from memory; convert or read it if it is not there so."""
    from scgeneformer.models._read import convert, read_model

    with _lock:
        key = _Key(files, files.state(), str(device), str(dtype).removeprefix("torch."))
        if (entry := _entries.get(key)) is not None:
            entry.hits += 1
            _entries.move_to_end(key)
            return entry.model
        _forget_outdated()
        _make_room(files, device, dtype)
        relative = _lossless_relative(key)
        model = convert(relative, device, dtype) if relative else read_model(files, device, dtype)
        _entries[key] = _Entry(model)
        return model


def _forget_outdated() -> None:
    """Drop what would no longer be read so: its files are gone, have changed, or others are read in their place."""
    for key in [key for key in _entries if not _is_current(key)]:
        del _entries[key]


def _is_current(key: _Key) -> bool:
    files = key.files
    try:
        found = find_files(files.folder, files.name, files.source, files.revision, files.vocabulary)
        return found == files and files.state() == key.state
    except (ModelError, OSError):
        return False


def _lossless_relative(key: _Key) -> Model | None:
    """Return a copy on another device, or in float32, that converts without losing digits."""
    for other, entry in reversed(_entries.items()):
        if other[:2] == key[:2] and other.dtype in (key.dtype, "float32"):
            return entry.model
    return None


def _make_room(files: Files, device: torch.device, dtype: torch.dtype) -> None:
    """Drop the least recently used models of `device` until the weights of `files` fit."""
    import torch

    if (free := free_memory(device)) is None:
        return
    needed = WORKING_SPACE * files.weights.stat().st_size * dtype.itemsize / torch.float32.itemsize
    for key in [key for key in _entries if key.device == str(device)]:
        if free >= needed:
            return
        from scanpy import logging as logg

        dropped = _entries.pop(key).model
        logg.info(
            f"model {dropped.name} ({key.dtype}) leaves {device}: {files.name} needs {needed / 1e6:,.0f} MB there"
        )
        del dropped
        torch.cuda.empty_cache()
        free = free_memory(device) or 0
