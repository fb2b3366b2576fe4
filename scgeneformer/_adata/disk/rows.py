"""An array that is filled by rows, in memory or on disk."""

from __future__ import annotations

import tempfile
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from scgeneformer._publish import told_if_full


class Rows:
    """Rows of numbers that come in any order, each once.

    Parameters
    ----------
    shape
        (n_rows, n_columns).
    dtype
        Of the numbers.
    folder
        Keep them in a file there, which has no name and is gone with the array; None keeps them in memory.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype | type, folder: Path | str | None = None) -> None:
        self.shape, self.dtype, self.folder = shape, np.dtype(dtype), Path(folder or ".")
        in_memory = folder is None or 0 in shape  # there is no map of nothing
        self._array = np.zeros(shape, dtype) if in_memory else None
        self._file = None
        if not in_memory:
            self._file = tempfile.TemporaryFile(prefix="scgeneformer-", dir=folder)  # noqa: SIM115  closed in the end
            weakref.finalize(self, _close, self._file)  # also where a run is stopped
        self._lock = threading.Lock()

    def put(self, first: int, rows: np.ndarray) -> None:
        """Put rows at `first` and behind."""
        if self._file is None:
            assert self._array is not None
            self._array[first : first + len(rows)] = rows
            return
        with self._lock, told_if_full(self.folder):  # devices work in threads
            self._file.seek(first * self.shape[1] * self.dtype.itemsize)
            self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)

    def array(self) -> np.ndarray:
        """All rows; changes of an array on disk stay in memory. Call once, at the end."""
        if self._file is None:
            assert self._array is not None
            return self._array
        with told_if_full(self.folder), self._file as file:  # the map keeps it open
            file.flush()
            return np.asarray(np.memmap(file, dtype=self.dtype, mode="c", shape=self.shape))


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # what a full disk did not take is lost in any case
        file.close()
