"""SHA-256 of files, computed once for each state of a file."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Stamp(NamedTuple):
    """One state of a file: changes when the file does."""

    path: str
    inode: int
    bytes: int
    changed: int


def stamp(path: Path) -> Stamp:
    """Return the state `path` is in, links resolved."""
    real = path.resolve()
    stat = real.stat()
    return Stamp(str(real), stat.st_ino, stat.st_size, stat.st_mtime_ns)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    return _sha256(stamp(path))


@lru_cache(maxsize=256)
def _sha256(state: Stamp) -> str:
    with open(state.path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
