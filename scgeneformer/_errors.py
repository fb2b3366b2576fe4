"""Errors of this package; each says what is wrong, in which place, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class GeneformerError(Exception):
    """Base of all errors raised by scgeneformer.

    Parameters
    ----------
    message
        The text. It may quote a stranger's file: what a terminal would obey, not show, is escaped.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message))

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made anew from its text, as every worker of a cluster can."""
        return type(self), self.args, self.__dict__


class DataError(GeneformerError, ValueError):
    """The AnnData, or a parameter that refers to it, cannot be used as asked."""


class MissingKeyError(DataError, KeyError):
    """A column, layer or key that was named does not exist."""

    def __str__(self) -> str:
        """Show the message as it is; `KeyError` would show its repr."""
        return str(self.args[0])


def missing_key(slot: str, key: Any, present: Iterable[Any], remedy: str = "") -> MissingKeyError:
    """The error that ``adata.<slot>`` has no such key; it names those that are there."""
    kind = {"layers": "layers", "obs": "columns", "var": "columns"}.get(slot, "keys")
    there = ", ".join(map(repr, present)) or "none"
    return MissingKeyError(f"adata.{slot}[{key!r}] does not exist; the {kind} are: {there}. {remedy}".rstrip())


class ModelError(GeneformerError, ValueError):
    """A model, its weights or its vocabulary cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """A model is not at hand and cannot be fetched."""

    __str__ = Exception.__str__


class OutOfMemoryError(GeneformerError, MemoryError):
    """Not even one cell fits into the memory of the device."""


class MissingExtraError(GeneformerError, ImportError):
    """A library that only some functions need is not installed."""
