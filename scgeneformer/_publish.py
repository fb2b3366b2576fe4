"""Write a file or directory so that readers see the old one or the new one, never half of one."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import threading
import uuid
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from scgeneformer._lock import LOCK, Lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ZARR = (".zgroup", ".zarray", "zarr.json")  # one of them is in every folder of a zarr store


def resolved(path: Path) -> Path:
    """What a path leads to.

    Raises
    ------
    OSError
        If links lead in a circle.
    """
    with suppress(RuntimeError):  # of Python before 3.13
        found = path.resolve()
        if not found.is_symlink():
            return found
    raise OSError(f"{path} is a link in a circle, which leads nowhere. Name another place.")


def check_writable(target: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Refuse a target that cannot be written, before anything is computed for it.

    Parameters
    ----------
    target
        File or directory.
    overwrite
        Whether it may exist.
    source
        What is read, which is to stay as it is.

    Raises
    ------
    OSError
        If the directory does not exist, is read-only, or is in `source` or a zarr store; or the target exists and is
        read-only or not to be replaced; or is a link to itself.
    """
    place = resolved(target)
    parent = place.parent
    if not parent.is_dir():
        raise FileNotFoundError(f"There is no directory {parent} to write {target.name} into.")
    for folder in place.parents:
        if (source is not None and folder == resolved(source)) or any((folder / name).is_file() for name in ZARR):
            raise OSError(f"{target} would be a part of {folder}, which holds other data. Name a place outside of it.")
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
def published(target: Path, within: Path | None = None, *, overwrite: bool = True) -> Iterator[Path]:
    """Give a free path beside `target`; what the block writes there takes its place, or is removed on an error.

    A file replaces the old one in one step. So does a directory on Linux; elsewhere it is swapped by two renames,
    between which it is missing. What a killed process leaves behind is removed by the next one with this target.

    Parameters
    ----------
    target
        File or directory. A link stays a link: what it points to is replaced.
    within
        Folder on the same disk to write into, if it exists.
    overwrite
        Whether a target that exists at the end of the block is replaced.

    Raises
    ------
    FileExistsError
        If it exists then, and is not to be replaced.
    BlockingIOError
        If another call works in `within`.
    """
    target = resolved(target)
    with _own_folder(target, within) as folder:
        fresh = folder / f".result{target.suffix}"
        _remove(fresh)
        try:
            yield fresh
            (_replace if overwrite else _move)(fresh, target)
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
    If another call works in it, it stays.
    """
    try:
        lock = Lock(folder)
    except (BlockingIOError, FileNotFoundError):
        return
    gone = folder.with_name(f".{folder.name}.removed")
    _remove(gone)
    gone = beside(folder) if gone.exists() else gone  # what cannot be removed yet, as on a network disk
    with lock, suppress(FileNotFoundError):
        folder.rename(gone)
    _remove(gone)


@contextmanager
def _own_folder(target: Path, within: Path | None) -> Iterator[Path]:
    """`within` if it exists, else a hidden folder beside `target`; no other call works in it.

    The hidden folder always has the same name, so that the next call finds what a killed one left in it. It has another
    name where it is another call's, or nobody can tell.
    """
    with ExitStack() as stack:
        if within is not None and within.is_dir():
            stack.enter_context(Lock(within))
            yield within
            return
        folder, held = target.with_name(f".{target.name}.new"), False
        with suppress(OSError):
            held = stack.enter_context(_made(folder)).held
        if not held:
            folder = beside(folder)
            stack.enter_context(_made(folder))
        yield folder


@contextmanager
def _made(folder: Path) -> Iterator[Lock]:
    """Make a folder, if it does not exist, and lock it; it is removed if nobody else has locked it by then."""
    folder.mkdir(exist_ok=True)
    lock = Lock(folder)
    try:
        yield lock
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            folder.rmdir()


def _move(fresh: Path, target: Path) -> None:
    """Put a file or directory where there is nothing."""
    try:
        (os.rename if fresh.is_dir() else os.link)(fresh, target)  # neither replaces anything
    except OSError as error:
        if os.path.lexists(target):
            raise FileExistsError(
                f"{target} was made by another call or program in the meantime, and is left as it is. Name another "
                "place, or replace it: overwrite=True."
            ) from error
        os.rename(fresh, target)  # there are no hard links


def _replace(fresh: Path, target: Path) -> None:
    """Put a file or directory in place of what is there, if anything is."""
    if target.exists():
        shutil.copymode(target, fresh)
    if not target.is_dir():
        os.replace(fresh, target)
    elif not _exchange(fresh, target):
        _swap(fresh, target)


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
