"""What the user means by `model`: an entry of the table, a local directory or a place on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from scgeneformer._errors import ModelError, ModelNotFoundError
from scgeneformer.models import _registry

MOST_LETTERS = 400  # of a place on the hub
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
    folder = _directory(text) if isinstance(text, str) else None
    if folder is not None:
        return folder
    if not isinstance(model, str) or os.path.isabs(text) or text.startswith((".", "~")):
        raise ModelNotFoundError(f"There is no directory {text!r}. {_registry.unknown(str(text))}")
    if "/" in text or "\\" in text:
        return _hub_place(text)
    raise _registry.unknown(text)


def _directory(text: str) -> Path | None:
    """The directory of that name, or None."""
    try:
        folder = Path(text).expanduser().absolute()  # the working directory may change
        return folder if text and folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, or the home of a user that does not exist
        return None


def _hub_place(text: str) -> HubPlace:
    match = _HUB.fullmatch(text)
    if match is None or ".." in text or len(text) > MOST_LETTERS or not _is_repository(match["repo"]):
        raise ModelError(
            f"{text[:MOST_LETTERS]!r} is neither a local directory that exists nor a place on the hub. Such a "
            "place reads org/repo[/subfolder][@revision], of letters, digits, '-', '_' and '.', without '..' and "
            "backslashes."
        )
    return HubPlace(**{part: value for part, value in match.groupdict().items() if value})


def _is_repository(name: str) -> bool:
    """Whether the hub allows such a name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
