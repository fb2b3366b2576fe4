"""What cannot be read of a file: told in words where it matters, left out where it does not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anndata.io import read_elem

from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

DAMAGES = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)  # what zarr may raise
UNKNOWN = object()  # in place of an element that anndata has no reader for, such as one of a later version


def read_known(element: Any) -> Any:
    """Read an element of h5py or zarr, or give UNKNOWN.

    Raises
    ------
    Exception
        If it is damaged: what the libraries raise.
    """
    try:
        return read_elem(element)
    except DAMAGES:
        raise
    except Exception:  # noqa: BLE001  anndata has an error of its own for this, under no public name
        return UNKNOWN


def place_of(matrix: Any) -> str | None:
    """Name and file of a matrix that h5py, zarr or anndata read from disk; None of all others."""
    element = getattr(matrix, "group", matrix)  # sparse ones are groups
    if hasattr(type(element), "file"):
        return f"{element.name} of {element.file.filename}" if element else "A matrix of a file that was closed"
    if not hasattr(element, "store_path") and not hasattr(element, "chunk_store"):  # zarr 3; zarr 2
        return None
    store = element.store
    return f"{element.name} of {getattr(store, 'root', None) or getattr(store, 'path', store)}"


@contextmanager
def told_if_damaged(place: str | None) -> Iterator[None]:
    """Say what it is that the block fails to read.

    Raises
    ------
    DataError
        In place of any error of the block, which only reads.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(
            f"{place} cannot be read: {error}. The file is damaged, closed or gone. Open it again, or another copy."
        ) from error
