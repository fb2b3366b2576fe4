import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from scgeneformer import DataError, _publish
from scgeneformer._adata.disk.run_store import RunStore

PART = {"x": np.arange(6).reshape(3, 2), "none": np.empty((0, 4), np.float32), "y": np.array([np.nan, 1.0])}


def test_parts_come_back_as_they_were(tmp_path):
    RunStore(tmp_path / "run.zarr", {"a": 1}).save("0", "made of x", PART)
    again = RunStore(tmp_path / "run.zarr", {"a": 1})
    found = again.load("0", "made of x")
    assert found.keys() == PART.keys()
    for name, array in PART.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert again.load("1", "made of y") is None


def test_what_the_first_run_chose_holds_for_those_that_go_on(tmp_path):
    RunStore(tmp_path / "run", {}, tokens_per_batch=10)
    assert RunStore(tmp_path / "run", {}, tokens_per_batch=99).choices == {"tokens_per_batch": 10}


def test_parts_of_another_run_are_refused(tmp_path):
    RunStore(tmp_path / "run", {"layer": 1, "genes": np.array(["a"])})
    with pytest.raises(
        DataError, match=r"other parameters or data \(different: 'genes', 'layer' was 1, is 2\)\. Repeat"
    ):
        RunStore(tmp_path / "run", {"layer": 2, "genes": np.array(["a"] * 20)})


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="exists and is not the store"):
            RunStore(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_damaged_and_half_written_parts_count_as_missing(tmp_path):
    with RunStore(tmp_path / "run", {}) as store:
        store.save("0", "made of x", PART)
        store.save("1", "made of y", PART)
    (chunk,) = [p for p in (store.parts / "0-made of x" / "y").rglob("*") if p.is_file() and p.name != "zarr.json"]
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    (store.parts / "1-made of y" / "zarr.json").unlink()
    (store.parts / ".2").mkdir()
    again = RunStore(tmp_path / "run", {})
    assert again.load("0", "made of x") is None
    assert again.load("1", "made of y") is None
    assert list(again) == ["0-made of x", "1-made of y"]
    again.save("0", "made of x", PART)
    assert again.load("0", "made of x") is not None


def test_a_part_of_other_data_is_refused(tmp_path):
    store = RunStore(tmp_path / "run", {})
    store.save("0", "made of x", PART)
    with pytest.raises(DataError, match=r"holds '0-made of x', made from other counts or genes: the data were changed"):
        store.load("0", "made of y")


def test_a_state_takes_the_place_of_the_one_before(tmp_path):
    with RunStore(tmp_path / "run", {}) as store:
        assert store.last() is None
        for name in ("state-1", "state-2"):
            store.replace(name, "0123456789abcdef0123", {"n": np.array([int(name[-1])])})
        assert list(store) == ["state-2-0123456789abcdef"]
    name, found = RunStore(tmp_path / "run", {}).last()
    assert (name, found["n"].tolist()) == ("state-2", [2])


HOLD = (
    "import fcntl, sys; fcntl.flock(file := open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB);"
    "print('held', flush=True); input()"
)
with_locks = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
REFUSED = r"Another call is working in .*run\. Wait for it, or name another folder"


@with_locks
def test_two_calls_of_one_process_do_not_work_in_one_store(tmp_path):
    with RunStore(tmp_path / "run", {}) as store:
        (store.parts / ".0").mkdir()  # half a part
        with pytest.raises(BlockingIOError, match=REFUSED):
            RunStore(tmp_path / "run", {})
        assert (store.parts / ".0").is_dir()
        store.save("0", "", PART)
        assert pickle.loads(pickle.dumps(store)).load("0", "").keys() == PART.keys()
        other = subprocess.run([sys.executable, "-c", HOLD, store.path / ".lock"], capture_output=True, check=False)
        assert b"BlockingIOError" in other.stderr  # what was refused has not taken the lock away
    assert RunStore(tmp_path / "run", {}).load("0", "") is not None  # `store` is still there, and its block has ended


@with_locks
def test_two_processes_do_not_work_in_one_store(tmp_path):
    RunStore(tmp_path / "run", {})
    command = [sys.executable, "-c", HOLD, tmp_path / "run" / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match=REFUSED):
            RunStore(tmp_path / "run", {})
        other.stdin.close()


def test_a_store_may_be_at_home_and_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("~/run", "here"):
        store = RunStore(name, {})
        monkeypatch.chdir("/")
        store.save("0", "", PART)
        monkeypatch.chdir(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "run"]


def test_a_run_that_was_killed_while_it_made_its_store_begins_anew(tmp_path, monkeypatch):
    import zarr

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(zarr, "open_group", killed)
        with pytest.raises(Killed):
            RunStore(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()  # an empty folder is as good as none
    RunStore(tmp_path / "run", {"a": 1}).save("0", "", PART)
    assert (tmp_path / "run" / "parts").is_dir()


@with_locks
def test_a_process_that_was_forked_meanwhile_neither_keeps_the_lock_nor_gives_it_back(tmp_path):
    with RunStore(tmp_path / "run", {}) as store:
        if not (ended := os.fork()):
            store._lock.release()  # as at the end of a process
            os._exit(0)
        os.waitpid(ended, 0)
        with pytest.raises(BlockingIOError, match=REFUSED):
            RunStore(tmp_path / "run", {})
        read, write = os.pipe()
        if not (living := os.fork()):
            os.read(read, 1)
            os._exit(0)
    assert RunStore(tmp_path / "run", {}).load("0", "") is None  # free, though a process lives on that had it
    os.write(write, b".")
    os.waitpid(living, 0)


def test_what_a_kill_leaves_of_a_folder_is_removed_with_the_next_of_that_name(tmp_path, monkeypatch):
    class Kill(BaseException):
        pass

    def kill(path, **_):
        raise Kill

    folder = tmp_path / "out.h5ad.parts"
    (folder / "parts").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(_publish.shutil, "rmtree", kill)
        with pytest.raises(Kill):
            _publish.discard(folder)
    assert os.listdir(tmp_path) == [".out.h5ad.parts.removed"]
    folder.mkdir()
    _publish.discard(folder)
    assert os.listdir(tmp_path) == []
