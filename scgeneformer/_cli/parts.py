"""The folder in which a command works until its result is complete, and where it goes on after a stop."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from scgeneformer._errors import DataError
from scgeneformer._lock import LOCK, Lock
from scgeneformer._publish import discard, resolved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEPT = "What was finished is kept in {parts}; the same command with {options} goes on from there."


@contextmanager
def parts_of(target: Path, *, resume: bool) -> Iterator[Path]:
    """Give the folder of a command for `target`, which is removed once the block is through.

    Where it is not, and parts of the result are finished, it stays, and the error says so (its notes).

    Parameters
    ----------
    target
        File that the results go to.
    resume
        Whether to go on with what is there.

    Raises
    ------
    FileExistsError
        If there is something that nobody asked to go on with.
    BlockingIOError
        If another command is working there.
    """
    target = resolved(target)
    parts = target.with_name(f"{target.name}.parts")
    if (parts / LOCK).is_file():
        Lock(parts).release()
    if parts.exists() and not resume:
        raise FileExistsError(
            f"{parts} holds what a command that was stopped had finished. Go on with it: --resume; to begin anew, "
            "remove it."
        )
    resumed, before = parts.exists(), _finished(parts)
    try:
        yield parts
    except BlockingIOError:  # it is another call's
        raise
    except BaseException as error:
        finished = _finished(parts)
        if finished and not _must_change(error, begun=finished != before):
            options = "--overwrite --resume" if isinstance(error, FileExistsError) else "--resume"
            error.add_note(KEPT.format(parts=parts, options=options))
        elif not finished and not resumed:
            discard(parts)
        raise
    discard(parts)


def _finished(parts: Path) -> set[str]:
    return {part.name for part in parts.glob("parts/[!.]*")}


def _must_change(error: BaseException, *, begun: bool) -> bool:
    """Whether the same command would end like this again, such as one with a mistyped name."""
    return isinstance(error, DataError) or (isinstance(error, FileNotFoundError | PermissionError) and not begun)
