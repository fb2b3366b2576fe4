import numpy as np
import pytest

from scgeneformer import DataError
from scgeneformer._adata.run_store import RunStore

PART = {"x": np.arange(6).reshape(3, 2), "none": np.empty((0, 4), np.float32), "y": np.array([np.nan, 1.0])}


def test_parts_come_back_as_they_were(tmp_path):
    RunStore(tmp_path / "run.zarr", {"a": 1}).save("0", PART)
    again = RunStore(tmp_path / "run.zarr", {"a": 1})
    found = again.load("0")
    assert found.keys() == PART.keys()
    for name, array in PART.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert again.load("1") is None


def test_what_the_first_run_chose_holds_for_those_that_go_on(tmp_path):
    RunStore(tmp_path / "run", {}, tokens_per_batch=10)
    assert RunStore(tmp_path / "run", {}, tokens_per_batch=99).choices == {"tokens_per_batch": 10}


def test_parts_of_another_run_are_refused(tmp_path):
    RunStore(tmp_path / "run", {"layer": 1, "genes": np.array(["a"])})
    with pytest.raises(DataError, match="other parameters or data \\(different: 'layer'\\)"):
        RunStore(tmp_path / "run", {"layer": 2, "genes": np.array(["a"])})


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="exists and is not the store"):
            RunStore(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_damaged_and_half_written_parts_count_as_missing(tmp_path):
    store = RunStore(tmp_path / "run", {})
    store.save("0", PART)
    store.save("1", PART)
    (chunk,) = [p for p in (store.parts / "0" / "y").rglob("*") if p.is_file() and p.name != "zarr.json"]
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    (store.parts / "1" / "zarr.json").unlink()
    (store.parts / ".2").mkdir()
    again = RunStore(tmp_path / "run", {})
    assert again.load("0") is None
    assert again.load("1") is None
    assert list(again) == ["0", "1"]
    again.save("0", PART)
    assert again.load("0") is not None
