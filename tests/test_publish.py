"""A file takes its place when it is complete: nothing else is replaced unasked, nothing is left behind."""

from __future__ import annotations

import errno
import os
import sys

import pytest
import zarr

from scgeneformer import _publish as publish
from scgeneformer._lock import Lock
from scgeneformer._publish import check_writable, discard, published

with_fork = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and locks")
KINDS = ["data.h5ad", "data.zarr"]


def write(path, text):
    """A file, or a folder with one."""
    if path.suffix == ".zarr":
        path.mkdir()
    (path / "x" if path.suffix == ".zarr" else path).write_text(text)


def read(path):
    return (path / "x" if path.is_dir() else path).read_text()


@pytest.fixture(params=KINDS)
def target(request, tmp_path):
    return tmp_path / request.param


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def _links(request, monkeypatch):
    def refuse(*_):
        raise PermissionError("Operation not permitted")

    if not request.param:
        monkeypatch.setattr(publish.os, "link", refuse)


@pytest.mark.usefixtures("_links")
def test_a_target_that_somebody_made_meanwhile_is_left_as_it_is(target):
    def publish():
        with published(target, overwrite=False) as fresh:
            write(fresh, "mine")
            write(target, "theirs")

    with pytest.raises(FileExistsError, match=r"data\..* was made by another call or program in the meantime, and is"):
        publish()
    assert read(target) == "theirs"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.usefixtures("_links")
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_target_that_is_not_there_is_made(target, overwrite):
    with published(target, overwrite=overwrite) as fresh:
        write(fresh, "mine")
    assert read(target) == "mine"
    assert os.listdir(target.parent) == [target.name]


@with_fork
def test_what_a_killed_process_left_is_removed_by_the_next(target):
    if not (child := os.fork()):
        with published(target) as fresh:
            write(fresh, "half")
            os._exit(9)
    os.waitpid(child, 0)
    assert os.listdir(target.parent) == [f".{target.name}.new"]
    with published(target) as fresh:
        write(fresh, "whole")
    assert read(target) == "whole"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_two_that_write_one_target_do_not_meet(target, locks, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    if not locks:
        monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)
    with published(target) as one:
        write(one, "first")
        with published(target) as other:
            write(other, "second")
            assert one.parent != other.parent
        assert read(target) == "second"
        assert read(one) == "first"
    assert read(target) == "first"
    assert os.listdir(target.parent) == [target.name]


@with_fork
def test_a_folder_that_another_call_works_in_is_neither_written_into_nor_discarded(target):
    parts = target.with_name("parts")
    parts.mkdir()
    with Lock(parts):
        with pytest.raises(BlockingIOError, match="Another call is working in"), published(target, parts):
            pytest.fail("two work in it")
        discard(parts)
        assert parts.is_dir()
    with published(target, parts) as fresh:
        assert fresh.parent == parts
        with pytest.raises(BlockingIOError, match=r"Another call is working in .*parts\. Wait for it"):
            Lock(parts)
        write(fresh, "mine")
    discard(parts)
    assert os.listdir(target.parent) == [target.name]


@with_fork
def test_a_lock_of_a_folder_that_has_gone_is_none(tmp_path, monkeypatch):
    """Between its opening of the file and its lock, another removes the folder, and a third makes it anew."""
    import fcntl

    folder = tmp_path / "folder"
    folder.mkdir()
    flock = fcntl.flock

    def slow(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        discard(folder)
        folder.mkdir()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(BlockingIOError):
        Lock(folder)


def test_nothing_is_written_into_data(tmp_path):
    zarr.open_group(tmp_path / "cells.zarr", mode="w").create_group("obsm")
    for name in ("cells.zarr/x.h5ad", "cells.zarr/obsm/x.zarr"):
        with pytest.raises(OSError, match=r"would be a part of .*cells.zarr.*Name a place outside of it"):
            check_writable(tmp_path / name, overwrite=True)
    (tmp_path / "cells.dataset").mkdir()
    with pytest.raises(OSError, match=r"would be a part of .*cells.dataset"):
        check_writable(tmp_path / "cells.dataset/x.h5ad", overwrite=True, source=tmp_path / "cells.dataset")
    check_writable(tmp_path / "cells.zarr", overwrite=True, source=tmp_path / "cells.zarr")


def test_a_link_in_a_circle_is_told(tmp_path):
    for name, to in (("one", "other"), ("other", "one")):
        (tmp_path / name).symlink_to(tmp_path / to)
    for place in (tmp_path / "one", tmp_path / "one" / "x"):
        with pytest.raises(OSError, match=r"is a link in a circle|There is no directory"):
            check_writable(place, overwrite=True)
    with (
        pytest.raises(OSError, match=r"one is a link in a circle, which leads nowhere\. Name"),
        published(tmp_path / "one"),
    ):
        pass
