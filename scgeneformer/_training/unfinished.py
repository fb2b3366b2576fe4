"""A directory in which a training is going on, and which a second call with the same request takes up again."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from scanpy import logging as logg

from scgeneformer._errors import DataError
from scgeneformer._foreign import read_json
from scgeneformer._json import to_json
from scgeneformer._publish import published
from scgeneformer._training.processes import is_first

if TYPE_CHECKING:
    from pathlib import Path

REQUEST, CHECKPOINTS = "training.json", "checkpoints"


def open_folder(folder: Path, request: dict[str, Any], overwrite: bool) -> Path:
    """Make `folder` ready for a training, new or cut off, and give the folder of its checkpoints.

    Parameters
    ----------
    folder
        Where the model will be.
    request
        All that the trained weights depend on; texts, numbers, lists and dictionaries.
    overwrite
        Begin anew if another training was cut off there.

    Raises
    ------
    DataError
        If a training with another request was cut off there.
    """
    if not is_first():
        return folder / CHECKPOINTS
    asked = json.loads(to_json(request))
    path = folder / REQUEST
    if path.is_file():
        there = _read(path, overwrite)
        if there == asked:
            logg.info(f"    going on with the training in {folder}")
            return folder / CHECKPOINTS
        if not overwrite:
            other = sorted(key for key in {*there, *asked} if there.get(key) != asked.get(key))
            raise DataError(
                f"{folder} holds a training that was cut off and differs in {', '.join(other)}. Repeat that call to go "
                "on with it, name another directory (out=...), or begin anew: overwrite=True."
            )
        close_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with published(path) as fresh:  # one cut off here would lock the checkpoints
        fresh.write_text(to_json(asked), encoding="utf-8")
    return folder / CHECKPOINTS


def _read(path: Path, overwrite: bool) -> dict[str, Any]:
    """The request that is there; with `overwrite` an unreadable one is one of nothing."""
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        if overwrite:
            return {}
        raise DataError(
            f"{path} says of no training that can be gone on with ({error}). Name another directory (out=...), or "
            "begin anew: overwrite=True."
        ) from error


def close_folder(folder: Path) -> None:
    """Remove checkpoints and request: the training is over."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / REQUEST).unlink(missing_ok=True)
