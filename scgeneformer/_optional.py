"""Libraries that only some functions need, and that an extra of this package installs."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from scgeneformer._errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a library that an extra installs.

    Parameters
    ----------
    module
        Its name.
    extra
        The extra of this package.
    purpose
        What asks for it, for the error message.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    if find_spec(module) is None:
        raise MissingExtraError(
            f"{purpose} needs the library {module}, which is not installed. Install it: "
            f'pip install "scgeneformer[{extra}]".'
        )
    return import_module(module)
