"""Dictionary pickles that want to run something, or to take all memory or time."""

import pickle
import struct
import subprocess
import tracemalloc

import pytest

from scgeneformer._engine import dictionaries, pickled
from scgeneformer._engine.dictionaries import read_dictionary, vocabulary_from_dictionaries
from scgeneformer._errors import ModelError


def long(n):
    return struct.pack("<Q", n)


def text(name):
    return b"\x8c" + bytes([len(name)]) + name


def doubled(times):
    """A tuple of two tuples of two tuples ...: 2 ** times entries, one after the other in memory only once."""
    return b")" + b"q\x00h\x00\x86" * times


CALLS = {
    "import": b"cos\nsystem\n(Vtouch {bait}\ntR.",
    "import of protocol 4": text(b"os") + text(b"system") + b"\x93" + text(b"touch {bait}") + b"\x85R.",
    "attribute of numpy": b"cnumpy\n_pytesttester.PytestTester\n.",
    "dotted name": b"cnumpy\ndtype.__class__\n.",
    "instance": b"(ios\nsystem\n.",
    "object": b"(cos\nsystem\nVtouch {bait}\no.",
    "new object": b"cos\nsystem\n(t\x81.",
    "new object with names": b"cos\nsystem\n(t}\x92.",
    "persistent id": b"Pos.system\n.",
    "extension": b"\x82\x01.",
    "call of text": text(b"x") + b")R.",
    "call of a dtype": b"cnumpy\ndtype\n(X\x02\x00\x00\x00i8tR)R.",
    "buffer": b"\x97.",
}


@pytest.mark.parametrize("kind", CALLS)
def test_nothing_is_imported_or_called(tmp_path, kind, monkeypatch):
    bait, path = tmp_path / "bait", tmp_path / "d.pkl"
    path.write_bytes(CALLS[kind].replace(b"{bait}", str(bait).encode()))
    monkeypatch.setattr("os.system", lambda command: bait.write_text(command))
    with pytest.raises(ModelError, match=r"d\.pkl was refused: it holds .* Nothing in it was executed"):
        read_dictionary(path)
    assert not bait.exists()


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["whole", "key", "value", "in a list"])
def test_bombs_are_refused_in_all_places(tmp_path, protocol, place):
    bomb = Call(subprocess.check_call, ["touch", str(tmp_path / "bait")])
    content = {"whole": bomb, "key": {(bomb,): 1}, "value": {"a": bomb}, "in a list": {"a": [[bomb]]}}[place]
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ModelError, match="was refused"):
        read_dictionary(tmp_path / "d.pkl")
    assert not (tmp_path / "bait").exists()


BOMBS = {
    "memo with a huge place": b"}r\xff\xff\xff\x7f).",
    "memo with a huge number": b"}p99999999999999999999\n).",
    "text that claims 2 ** 60 bytes": b"}\x8d" + long(2**60) + b"abc.",
    "text that claims 4 GB": b"}X\xff\xff\xff\xffabc.",
    "bytes that claim 2 ** 60 bytes": b"}\x8e" + long(2**60) + b"abc.",
    "array of 2 ** 40 bytes": b"\x96" + long(2**40) + b".",
    "frame that claims 2 ** 60 bytes": b"\x80\x04\x95" + long(2**60) + b"}",
    "number that claims 2 GB": b"\x8b\xff\xff\xff\x7f\x01.",
    "number of a million digits": b"I" + b"9" * 10**6 + b"\n.",
    "billion laughs as a key": b"}" + doubled(60) + b"K\x01s.",
    "billion laughs as a value": b"}" + text(b"a") + doubled(60) + b"s.",
    "billion laughs as a dtype": b"cnumpy\ndtype\n" + doubled(60) + b"\x85R.",
    "billion laughs as a state": b"cnumpy\ndtype\n" + text(b"i8") + b"\x85R" + doubled(60) + b"b.",
    "billion laughs as a name": doubled(60) + text(b"x") + b"\x93.",
    "a dictionary within itself": b"}q\x00" + text(b"a") + b"h\x00s.",
    "nested tuples": b")" + b"\x85" * 10**4 + b".",
    "nested dictionaries": b"}" + (text(b"a") + b"}") * 10**4 + b"s" * 10**4 + b".",
    "marks without end": b"(" * 10**4,
    "a name of a million letters": b"c" + b"x" * 10**6 + b"\nsystem\n.",
    "empty": b"",
    "nothing on the stack": b".",
    "an end without a mark": b"u.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_take_neither_memory_nor_time_and_are_refused_in_short(tmp_path, kind):
    path = tmp_path / "d.pkl"
    path.write_bytes(BOMBS[kind])
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"was refused|is not a readable dictionary pickle") as caught:
            read_dictionary(path)
        assert tracemalloc.get_traced_memory()[1] < 60 * len(BOMBS[kind]) + 2**20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("step", [b"}", b"(", b"}\x94\x94\x94", b"K\x01", b")", b"N", text(b"a"), b"}\x85\x85\x85"])
def test_every_step_leaves_little_behind(tmp_path, monkeypatch, step):
    monkeypatch.setattr(pickled, "MOST_STEPS", 2**14)
    (tmp_path / "d.pkl").write_bytes(step * 2**15)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="was refused: it holds more than 16,384 pickle instructions"):
            read_dictionary(tmp_path / "d.pkl")
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**14 + 4 * len(step * 2**15) + 2**16
    finally:
        tracemalloc.stop()


def test_a_file_without_end_and_what_is_no_file_are_refused(tmp_path):
    import os

    with open(tmp_path / "d.pkl", "wb") as file:
        file.truncate(dictionaries.MAX_BYTES + 1)
    with pytest.raises(ModelError, match="has 16,777,217 bytes, and at most 16,777,216 are read"):
        read_dictionary(tmp_path / "d.pkl")
    os.mkfifo(tmp_path / "pipe.pkl")
    (tmp_path / "zero.pkl").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(ModelError, match="is no file"):
            read_dictionary(tmp_path / f"{name}.pkl")


def dump(folder, **changes):
    contents = {
        "token_dictionary": {"<pad>": 0, "ENSG1": 1},
        "gene_median_dictionary": {"ENSG1": 1.0},
        "ensembl_mapping_dict": {"A": "ENSG1"},
        "gene_name_id_dict": {"A": "ENSG1"},
    }
    for name, content in (contents | changes).items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content))
    return folder


STRANGE = {
    "a token that is text": ({"token_dictionary": {"<pad>": 0, "ENSG1": "1"}}, "must hold tokens, .*'ENSG1'"),
    "a token that is a fraction": ({"token_dictionary": {"": 0.5}}, "must hold tokens, whole numbers, .*''"),
    "a token beyond all": ({"token_dictionary": {"<pad>": 0, "ENSG1": 2**31 - 1}}, "gives out the token 2,147,483,647"),
    "a special token beyond all": ({"token_dictionary": {"<pad>": 10**12, "ENSG1": 1}}, "gives out the token 1,000"),
    "a negative token": ({"token_dictionary": {"<pad>": 0, "ENSG1": -1}}, "gives out the token -1"),
    "one token for two": ({"token_dictionary": {"<pad>": 1, "ENSG1": 1}}, "one token to two genes"),
    "a median that is text": ({"gene_median_dictionary": {"ENSG1": "x"}}, "must hold medians, numbers"),
    "a median that is none": ({"gene_median_dictionary": {"ENSG1": float("nan")}}, "must be positive numbers"),
    "a number for an ID": ({"ensembl_mapping_dict": {"A": 5}}, "must hold Ensembl IDs, text"),
    "a symbol of a number": ({"gene_name_id_dict": {"A": 5}}, "must hold Ensembl IDs, text"),
    "a gene that moves the cursor": (
        {"token_dictionary": {"E\x1b[2J": 1}, "gene_median_dictionary": {"E\x1b[2J": 1.0}},
        r"'E\\x1b\[2J' is no name of a gene: .* or some that cannot be printed",
    ),
    "a gene with a long name": (
        {"token_dictionary": {"E" * 10**6: 1}, "gene_median_dictionary": {"E" * 10**6: 1.0}},
        "E' is no name of a gene: it has more than 128 letters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE)
def test_dictionaries_of_something_else_are_named(tmp_path, kind):
    changes, message = STRANGE[kind]
    with pytest.raises(ModelError, match=message) as caught:
        vocabulary_from_dictionaries(dump(tmp_path, **changes))
    assert len(str(caught.value)) < 1000
