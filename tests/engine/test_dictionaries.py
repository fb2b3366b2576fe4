import os
import pickle

import numpy as np
import pytest

from scgeneformer._engine import dictionaries
from scgeneformer._engine.dictionaries import read_dictionary, vocabulary_from_dictionaries
from scgeneformer._errors import ModelError


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def write_dictionaries(folder, *, special=(), medians=None):
    names = ["<pad>", "<mask>", *special]
    tokens = {name: i for i, name in enumerate(names)}
    tokens |= {"ENSG1": np.int16(len(names)), "ENSG2": np.int16(len(names) + 1)}
    dump(folder / "token_dictionary_x.pkl", tokens)
    dump(folder / "gene_median_dictionary_x.pkl", medians or {"ENSG1": np.float64(2.5), "ENSG2": 1.0, "ENSG9": 3.0})
    dump(folder / "ensembl_mapping_dict_x.pkl", {"ENSG1": "ENSG1", "Old1": "ENSG1", "GONE": "ENSG9"})
    dump(folder / "gene_name_id_dict_x.pkl", {"Abc": "ENSG1"})


@pytest.mark.parametrize("protocol", range(6))
def test_plain_and_numpy_numbers_are_read_with_every_pickle_protocol(tmp_path, protocol):
    content = {"a": 1, "b": 2.5, "c": "x", "d": np.int16(7), "e": np.float64(0.1), "f": np.float32(0.5)}
    if protocol < 3:
        content = {k: v for k, v in content.items() if not isinstance(v, np.generic)}  # they need _codecs.encode there
    found = read_dictionary(dump(tmp_path / "d.pkl", content, protocol))
    assert found == content
    assert all(type(v) in (int, float, str) for v in found.values())


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_executes_nothing_and_is_named(tmp_path, protocol):
    bait = tmp_path / "bait"
    path = dump(tmp_path / "d.pkl", {"a": Bomb(bait)}, protocol)
    with pytest.raises(ModelError, match="refused") as caught:
        read_dictionary(path)
    assert not bait.exists()
    assert "mkdir" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"a": np.array([1, 2])},
        {"a": np.array(["x"], dtype=object)},
        {"a": np.str_("x")},
        {"a": np.dtype("O")},
        {"a": {1}},
    ],
    ids=["array", "object array", "str scalar", "object dtype", "set"],
)
def test_anything_but_plain_numbers_and_text_is_refused(tmp_path, content):
    with pytest.raises(ModelError):
        read_dictionary(dump(tmp_path / "d.pkl", content))


def test_a_pickle_cannot_set_attributes(tmp_path):
    attack = b"\x80\x02cnumpy\ndtype\n}X\x05\x00\x00\x00evil1X\x01\x00\x00\x00xsb."  # BUILD on what numpy.dtype gives
    path = tmp_path / "d.pkl"
    path.write_bytes(attack)
    with pytest.raises(ModelError, match="the state of an object"):
        read_dictionary(path)


def test_a_damaged_pickle_and_something_else_are_refused(tmp_path):
    whole = dump(tmp_path / "d.pkl", {"a": 1})
    (tmp_path / "cut.pkl").write_bytes(whole.read_bytes()[:-3])
    (tmp_path / "long.pkl").write_bytes(b"X\xff\0\0\0abc")  # text of 255 bytes, of which there are three
    with pytest.raises(ModelError, match="Fetch it again"):
        read_dictionary(tmp_path / "cut.pkl")
    with pytest.raises(ModelError, match="it ends too early"):
        read_dictionary(tmp_path / "long.pkl")
    with pytest.raises(ModelError, match="the pickle instruction EMPTY_LIST"):
        read_dictionary(dump(tmp_path / "list.pkl", [1, 2]))
    with pytest.raises(ModelError, match="a key that is a int"):
        read_dictionary(dump(tmp_path / "int.pkl", {1: 2}))


def test_an_oversized_file_is_not_read(tmp_path, monkeypatch):
    path = dump(tmp_path / "d.pkl", {"a": "x" * 1000})
    monkeypatch.setattr(dictionaries, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="at most 100"):
        read_dictionary(path)


def test_four_dictionaries_make_one_vocabulary(tmp_path):
    write_dictionaries(tmp_path, special=("<cls>", "<eos>"))
    vocabulary = vocabulary_from_dictionaries(tmp_path)
    assert vocabulary.special == {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}
    assert vocabulary.tokens.tolist() == [4, 5]
    assert vocabulary.medians.tolist() == [2.5, 1.0]
    assert vocabulary.symbols.tolist() == ["Abc", ""]
    assert vocabulary.aliases == {"OLD1": "ENSG1"}  # no identity, and nothing that leads to a gene without token
    assert vocabulary.input_size == 4096
    write_dictionaries(tmp_path)
    assert vocabulary_from_dictionaries(tmp_path).input_size == 2048
    assert vocabulary_from_dictionaries(tmp_path, 99).input_size == 99


def test_a_gene_without_median_and_a_missing_file_are_named(tmp_path):
    write_dictionaries(tmp_path, medians={"ENSG1": 1.0})
    with pytest.raises(ModelError, match="ENSG2"):
        vocabulary_from_dictionaries(tmp_path)
    (tmp_path / "gene_median_dictionary_x.pkl").unlink()
    with pytest.raises(ModelError, match="gene_median_dictionary"):
        vocabulary_from_dictionaries(tmp_path)


def test_two_files_of_one_kind_are_refused(tmp_path):
    write_dictionaries(tmp_path)
    dump(tmp_path / "token_dictionary_y.pkl", {"<pad>": 0})
    with pytest.raises(ModelError, match=r"token_dictionary_x\.pkl, token_dictionary_y\.pkl"):
        vocabulary_from_dictionaries(tmp_path)


@pytest.mark.parametrize(
    ("release", "n_tokens", "input_size", "n_aliases"), [("V1", 25_426, 2048, 0), ("V2", 20_275, 4096, 71_482)]
)
def test_the_published_dictionaries_are_read(shared, release, n_tokens, input_size, n_aliases):
    vocabulary = vocabulary_from_dictionaries(shared / "dictionaries" / release)
    assert vocabulary.n_tokens == n_tokens
    assert vocabulary.input_size == input_size
    assert len(vocabulary.aliases) == n_aliases
    assert (vocabulary.symbols == "").sum() == {"V1": 4179, "V2": 0}[release]
    assert (vocabulary.cls_token, vocabulary.eos_token) == {"V1": (None, None), "V2": (2, 3)}[release]
