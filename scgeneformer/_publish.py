"""Write a file or directory so that readers see the old one or the new one, never half of one."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import threading
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before anything is computed for it.

    Raises
    ------
    OSError
        If the directory does not exist or is read-only, or the target exists and is read-only or not to be replaced.
    """
    parent = target.resolve().parent
    if not parent.is_dir():
        raise FileNotFoundError(f"There is no directory {parent} to write {target.name} into.")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already. Name another file, or replace it with --overwrite.")
    for place in (parent, target):
        if place.exists() and not (os.access(place, os.W_OK) and place.stat().st_mode & 0o222):
            raise PermissionError(f"{place} is read-only. Name another place for the results, or change its mode.")


@contextmanager
def told_if_full(path: Path) -> Iterator[None]:
    """Say in plain words if there is no room left for what the block writes to `path`.

    Raises
    ------
    OSError
        In place of any error that comes of a full disk, an exhausted quota or a file that may not grow.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 tells of it in words only
        found = [n for n in FULL if getattr(error, "errno", None) == n or f"errno = {n}," in str(error)]
        if not found:
            raise
        raise OSError(
            f"There is no room left to write {path} ({os.strerror(found[0])}). What was there before is as it was. "
            "Free some space, or name another place."
        ) from error


@contextmanager
def published(target: Path, within: Path | None = None) -> Iterator[Path]:
    """Give a free path beside `target`; what the block writes there takes its place, or is removed on an error.

    A file replaces the old one in one step. So does a directory on Linux; elsewhere it is swapped by two renames,
    between which it is missing.

    Parameters
    ----------
    target
        File or directory. A link stays a link: what it points to is replaced.
    within
        Folder on the same disk to write into, if it exists; what a killed process left there is replaced.
    """
    target = target.resolve()
    fresh = within / f".result{target.suffix}" if within is not None and within.is_dir() else beside(target)
    _remove(fresh)
    try:
        yield fresh
        if target.exists():
            shutil.copymode(target, fresh)
        if not target.is_dir():
            os.replace(fresh, target)
        elif not _exchange(fresh, target):
            _swap(fresh, target)
    finally:
        _remove(fresh)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let an interrupt wait for the end of the block, which must not be left halfway."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    waiting: list[Any] = []
    signal.signal(signal.SIGINT, lambda *call: waiting.append(call))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            handler(*waiting[0])


def discard(folder: Path) -> None:
    """Remove a folder so that under its name there is all of it or nothing.

    It has another name meanwhile, always the same, so that what a killed process left of it is removed with the next.
    """
    gone = folder.with_name(f".{folder.name}.removed")
    _remove(gone)
    gone = beside(folder) if gone.exists() else gone  # what cannot be removed yet, as on a network disk
    with suppress(FileNotFoundError):
        _remove(folder.rename(gone))


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step; whether that was possible."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # no Linux
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _swap(fresh: Path, target: Path) -> None:
    """Put one directory in place of another; the old one comes back if that fails."""
    old = beside(target)
    os.replace(target, old)
    try:
        os.replace(fresh, target)
    except BaseException:
        os.replace(old, target)
        raise
    _remove(old)


def beside(path: Path) -> Path:
    """A free path beside `path`, hidden."""
    return path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
