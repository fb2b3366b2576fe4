"""A folder that one call works in, and no other, as long as its lock is held."""

from __future__ import annotations

import errno
import os
import weakref
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

LOCK = ".lock"


class Lock:
    """Held until it is released, or the object is gone, or the process has ended, however it did.

    Parameters
    ----------
    folder
        What it keeps to this call.

    Attributes
    ----------
    held
        False where there are no locks (on Windows, and in some file systems): then it keeps nobody out.

    Raises
    ------
    BlockingIOError
        If another one is held, in this process or another.
    FileNotFoundError
        If there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.held = False
        self.release: Callable[[], object] = lambda: None
        try:
            import fcntl
        except ImportError:  # Windows
            return
        file = (folder / LOCK).open("a")
        self.release = weakref.finalize(self, _unlock, file, os.getpid())
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the open file: lockf would let in the same process
            self.held = True
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _taken(folder) from None
        if not _is_in(folder, file):  # who had it has removed the folder meanwhile
            raise _taken(folder)

    def __enter__(self) -> Self:
        """Keep the folder to the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let others have it."""
        self.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()  # stays in this process


def _taken(folder: Path) -> BlockingIOError:
    return BlockingIOError(f"Another call is working in {folder}. Wait for it, or name another folder.")


def _is_in(folder: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat((folder / LOCK).stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _unlock(file: IO[str], owner: int) -> None:
    """Give a lock back; a forked process, which has the same open file, may live on, or end before its parent."""
    import fcntl

    if os.getpid() == owner:
        with suppress(OSError):  # there are no locks
            fcntl.flock(file, fcntl.LOCK_UN)
    file.close()
