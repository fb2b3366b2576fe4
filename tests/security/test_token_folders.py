"""Folders of tokens (Arrow) of strangers."""

import contextlib
import json
import os
import struct

import numpy as np
import pytest
from toys import make_adata, make_vocabulary

import scgeneformer as gf
from scgeneformer._adata.disk.token_files import TokenFile
from scgeneformer._errors import DataError

pa = pytest.importorskip("pyarrow")
VOCABULARY = make_vocabulary()
N_GENES = 40


def write(folder, table, files=("data.arrow",), options=None):
    folder.mkdir(exist_ok=True)
    with pa.ipc.new_stream(folder / "data.arrow", table.schema, options=options) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    return folder


def table(**columns):
    return pa.table({"input_ids": [[5, 6, 7], [8, 9]], **columns})


@pytest.mark.parametrize(
    "name",
    ["../secret.arrow", "/etc/passwd", "a/../../secret.arrow", "sub/data.arrow", "..", "", "..\\secret.arrow", "a\0b"],
)
def test_files_outside_the_folder_are_not_opened(tmp_path, name):
    write(tmp_path, table()).joinpath("data.arrow").rename(tmp_path / "secret.arrow")
    folder = write(tmp_path / "cells.dataset", table(), files=[name])
    with pytest.raises(DataError, match=r"state\.json names .*, which is no file of this folder|cannot be read"):
        TokenFile(folder, VOCABULARY)


STATES = {
    "no JSON": b"{",
    "a list": b"[]",
    "lists without end": b"[" * 10**5,
    "no files": b"{}",
    "files of numbers": b'{"_data_files": [5]}',
    "one number": b'{"_data_files": 5}',
    "no name": b'{"_data_files": [{"filename": null}]}',
    "no file at all": b'{"_data_files": []}',
    "another encoding": b"\xff\xfe",
}


@pytest.mark.parametrize("kind", STATES)
def test_states_that_lie_are_refused(tmp_path, kind):
    (write(tmp_path / "c", table()) / "state.json").write_bytes(STATES[kind])
    with pytest.raises(DataError, match=r"c cannot be read: .*Is the folder complete\?"):
        TokenFile(tmp_path / "c", VOCABULARY)


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_huge_states_are_not_read(tmp_path, name):
    folder = write(tmp_path / "c", table())
    with open(folder / name, "wb") as file:
        file.truncate(2**33)
    with pytest.raises(DataError, match=rf"{name} has 8,589,934,592 bytes, and at most"):
        TokenFile(folder, VOCABULARY)


def lists(offsets, values=(5, 6, 7, 8, 9)):
    """Lists as a damaged or hostile file has them."""
    buffer = pa.py_buffer(np.array(offsets, np.int32))
    child = pa.array(values, pa.int32())
    return pa.ListArray.from_buffers(pa.list_(pa.int32()), len(offsets) - 1, [None, buffer], children=[child])


@pytest.mark.parametrize("offsets", [[0, 3, 2**30], [0, 5, 3], [-4, 0, 3], [0, -1, 5], [2**30, 2**30, 2**30]])
def test_lists_that_lead_out_of_the_file_are_refused(tmp_path, offsets):
    cells = pa.table({"input_ids": lists([0, 3, 5])})
    folder = write(tmp_path / "c", cells)
    data = (folder / "data.arrow").read_bytes()
    honest, lie = struct.pack("<3i", 0, 3, 5), struct.pack("<3i", *offsets)
    assert data.count(honest) == 1
    (folder / "data.arrow").write_bytes(data.replace(honest, lie))
    with pytest.raises(DataError, match=r"the column 'input_ids' is damaged|cannot be read"):
        TokenFile(folder, VOCABULARY).rows(0, 2)


def test_text_that_leads_out_of_the_file_is_refused(tmp_path):
    folder = write(tmp_path / "c", table(organ=["liver", "lung"]))
    data = (folder / "data.arrow").read_bytes()
    honest = struct.pack("<3i", 0, 5, 9)
    assert data.count(honest) == 1
    for lie in ((0, 5, 2**30), (0, 9, 5), (-9, 0, 9)):
        (folder / "data.arrow").write_bytes(data.replace(honest, struct.pack("<3i", *lie)))
        with pytest.raises(DataError, match=r"the column 'organ' is damaged|cannot be read"):
            TokenFile(folder, VOCABULARY).column("organ")


def test_text_that_is_none_is_refused(tmp_path):
    folder = write(tmp_path / "c", table(organ=["liver", "lung"]))
    data = (folder / "data.arrow").read_bytes()
    (folder / "data.arrow").write_bytes(data.replace(b"liver", b"\xff\xfe\xff\xfe\xff"))
    with pytest.raises(DataError, match=r"the column 'organ' is damaged: .*UTF8"):
        TokenFile(folder, VOCABULARY).column("organ")


@pytest.mark.parametrize("n_bytes", [0, 3, 8, 40, 200, 400])
def test_files_that_were_cut_are_refused(tmp_path, n_bytes):
    path = write(tmp_path / "c", table()) / "data.arrow"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(DataError):
        TokenFile(tmp_path / "c", VOCABULARY)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_column_that_claims_all_memory_is_refused(tmp_path, codec):
    """Each compressed buffer begins with the size it claims to have."""
    cells = pa.table({"input_ids": [[5] * 3000], "length": [3000]})
    folder = write(tmp_path / "c", cells, options=pa.ipc.IpcWriteOptions(compression=codec))
    data = (folder / "data.arrow").read_bytes()
    honest = struct.pack("<q", 24_000)
    assert data.count(honest) >= 1
    (folder / "data.arrow").write_bytes(data.replace(honest, struct.pack("<q", 2**55)))
    with pytest.raises(DataError, match="cannot be read"):
        TokenFile(folder, VOCABULARY)


@pytest.mark.parametrize("token", [2**32 + 5, -1, 2**40])
def test_tokens_beyond_all_are_refused(tmp_path, token):
    cells = pa.table({"input_ids": pa.array([[5, token]], pa.list_(pa.int64()))})
    with pytest.raises(DataError, match="token"):
        TokenFile(write(tmp_path / "c", cells), VOCABULARY).rows(0, 1)


NOTES = {
    "no JSON": b"{",
    "a number": b"5",
    "features of a list": b'{"info": {"features": []}}',
    "names of a number": b'{"info": {"features": {"kind": {"_type": "ClassLabel", "names": 5}}}}',
    "too few names": b'{"info": {"features": {"kind": {"_type": "ClassLabel", "names": ["a"]}}}}',
    "one name twice": b'{"info": {"features": {"kind": {"_type": "ClassLabel", "names": ["a", "a", "a"]}}}}',
    "lists without end": b"[" * 10**5,
}


@pytest.mark.parametrize("kind", NOTES)
def test_notes_that_lie_are_refused_or_left_unread(tmp_path, kind):
    cells = table(kind=[0, 2]).replace_schema_metadata({b"huggingface": NOTES[kind]})
    file = TokenFile(write(tmp_path / "c", cells), VOCABULARY)
    with contextlib.suppress(DataError):
        assert list(file.column("kind")) == [0, 2]


def test_a_note_of_ours_that_is_no_json_is_refused(tmp_path):
    cells = table().replace_schema_metadata({b"scgeneformer": b"{"})
    with pytest.raises(DataError, match="its note 'scgeneformer' is no JSON"):
        TokenFile(write(tmp_path / "c", cells), VOCABULARY)


def test_a_folder_written_by_a_link_leaves_what_it_leads_to(tmp_path, toy):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    gf.datasets.write_tokens(make_adata(), tmp_path / "c", toy)
    path = next((tmp_path / "c").glob("*.arrow"))
    path.unlink()
    os.symlink(mine, path)
    gf.datasets.write_tokens(make_adata(), tmp_path / "c", toy, overwrite=True)
    assert mine.read_text() == "mine"
    assert gf.datasets.read_tokens(tmp_path / "c", toy).n_obs == 12
