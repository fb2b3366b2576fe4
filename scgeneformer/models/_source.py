"""What the user means by `model`: an entry of the table, a local directory or a place on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from scgeneformer._errors import ModelError, ModelNotFoundError
from scgeneformer.models import _registry

_PART = r"\w[\w.+-]*"
_HUB = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(/(?P<subfolder>{_PART}(/{_PART})*))?(@(?P<revision>{_PART}(/{_PART})*))?", re.ASCII
)


class HubPlace(NamedTuple):
    """A model on the hub that the table does not list."""

    repo: str
    subfolder: str = ""
    revision: str = "main"

    @property
    def name(self) -> str:
        """Name under which it is recorded."""
        return f"{self.repo}/{self.subfolder}" if self.subfolder else self.repo


def parse(model: str | os.PathLike[str]) -> _registry.Entry | Path | HubPlace:
    """Find out what `model` names.

    Parameters
    ----------
    model
        Registry name, local directory, or ``org/repo[/subfolder][@revision]``; looked up in this order.

    Raises
    ------
    ModelError
        If it is none of them; the message lists the names.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ModelError(f"model={model!r} is a {type(model).__name__}; it is a name, a directory or a loaded model.")
    text = os.fspath(model)
    if isinstance(model, str) and (entry := _registry.find(text)):
        return entry
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return folder
    if not isinstance(model, str) or folder.is_absolute() or text.startswith((".", "~")):
        raise ModelNotFoundError(f"There is no directory {folder}. {_registry.unknown(text)}")
    if "/" in text or "\\" in text:
        return _hub_place(text)
    raise _registry.unknown(text)


def _hub_place(text: str) -> HubPlace:
    match = _HUB.fullmatch(text)
    if match is None or ".." in text:
        raise ModelError(
            f"{text!r} is neither a local directory that exists nor a place on the hub. A place on the hub reads "
            "org/repo[/subfolder][@revision], of letters, digits, '-', '_' and '.', without '..' and backslashes."
        )
    return HubPlace(**{part: value for part, value in match.groupdict().items() if value})
