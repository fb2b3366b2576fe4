"""Model directories of strangers: configs, weights and vocabularies that lie."""

import json
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from scgeneformer import models
from scgeneformer._errors import DataError, ModelError
from scgeneformer.models import _weights
from scgeneformer.models._classifier import load_classifier

CONFIG, WEIGHTS, BIN = "config.json", "model.safetensors", "pytorch_model.bin"


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def load(folder):
    """Load, and see to it that it takes no memory beyond that of the files, which are tiny."""
    tracemalloc.start()
    try:
        return models.load(folder, device="cpu")
    finally:
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


OWN_CODE = {
    "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "lab/evil--evil.Config"},
    "trust_remote_code": True,
    "custom_pipelines": {"embed": {"impl": "evil.Pipeline"}},
}


@pytest.mark.parametrize("entry", OWN_CODE)
def test_a_model_that_asks_for_code_of_its_own_is_refused(checkpoint, entry, monkeypatch):
    monkeypatch.syspath_prepend(checkpoint)
    (checkpoint / "evil.py").write_text("raise SystemExit")
    change(checkpoint / CONFIG, **{entry: OWN_CODE[entry]})
    with pytest.raises(ModelError, match=rf"code of its own \({entry}\), .* ever executed.* remove this entry"):
        load(checkpoint)
    assert "evil" not in sys.modules


CODE_BY_NAME = {
    "_attn_implementation": "lab/evil-kernel",
    "attn_implementation": "lab/evil-kernel",
    "_attn_implementation_internal": "lab/evil-kernel",
    "_experts_implementation": "lab/evil-kernel",
    "experts_implementation": "lab/evil-kernel",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "torch_dtype": "evil",
    "dtype": "float1",
    "architectures": ["EvilModel"],
    "tokenizer_class": "EvilTokenizer",
    "model_type_": "evil",
    "is_decoder": True,
    "add_cross_attention": True,
    "pruned_heads": {"0": [0]},
    "__class__": "evil",
    "to_dict": 1,
}


def test_entries_that_do_not_describe_the_encoder_have_no_effect(checkpoint):
    """Transformers would fetch kernels, code in a repository on the hub, where a config names one."""
    expected = load(checkpoint).bert.state_dict()
    change(checkpoint / CONFIG, **CODE_BY_NAME)
    model = load(checkpoint)
    assert model.bert.config._attn_implementation == "scgeneformer_packed"
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.bert.state_dict().items())


HUGE = 10**12
LIES = {
    "rows": ({"vocab_size": HUGE}, "does not fit the weights"),
    "width": ({"hidden_size": HUGE}, "describes no encoder that can be built"),
    "large width": ({"hidden_size": 10**6}, r"is \(34, 16\) .* asks for \(34, 1000000\)"),
    "blocks": ({"num_hidden_layers": HUGE}, r"asks for 1,000,000,000,000 blocks, and .* holds 37 tensors"),
    "many blocks": ({"num_hidden_layers": 10**5}, "asks for 100,000 blocks, and"),
    "positions": ({"max_position_embeddings": HUGE}, "input_size=1,000,000,000,000 must be from 2"),
    "many positions": ({"max_position_embeddings": 10**6}, r"asks for \(1000000, 16\)"),
    "token types": ({"type_vocab_size": 10**9}, r"asks for \(1000000000, 16\)"),
    "inner width": ({"intermediate_size": 10**9}, r"asks for \(1000000000, 16\)"),
    "all numbers": ({"intermediate_size": 10**40}, "describes no encoder|not a usable"),
    "heads": ({"num_attention_heads": HUGE}, "does not divide into 1000000000000 heads"),
    "true": ({"hidden_size": True}, "gives no usable hidden_size: True instead of a count"),
    "nothing": ({"num_hidden_layers": 0}, "gives no usable num_hidden_layers: 0"),
    "fraction": ({"vocab_size": 34.0}, r"gives no usable vocab_size: 34\.0"),
    "padding": ({"pad_token_id": 10**6}, "pad_token_id is 1000000 and must be a token"),
    "activation": ({"hidden_act": "os.system"}, "hidden_act is 'os.system'; known are gelu"),
    "activation of a list": ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]; known are gelu"),
    "epsilon": ({"layer_norm_eps": "x"}, "layer_norm_eps is 'x' and must be a number"),
    "infinity": ({"hidden_dropout_prob": float("inf")}, "hidden_dropout_prob is inf and must be a number"),
    "switch": ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no' and must be true or false"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIES)
def test_configs_that_lie_are_refused_before_anything_is_allocated(checkpoint, kind):
    entries, message = LIES[kind]
    change(checkpoint / CONFIG, **entries)
    with pytest.raises(ModelError, match=message):
        load(checkpoint)


NO_JSON = {
    "without end": (b"[" * 10**5, "lists within lists without end"),
    "in another encoding": (b"\xff\xfe\x00\x01", "not readable JSON"),
    "of two documents": (b"{}{}", "not readable JSON"),
    "of a number of a million digits": (b'{"vocab_size": ' + b"9" * 10**6 + b"}", "not readable JSON"),
}


@pytest.mark.parametrize("kind", NO_JSON)
def test_json_that_is_none_is_refused(checkpoint, kind):
    content, message = NO_JSON[kind]
    (checkpoint / CONFIG).write_bytes(content)
    with pytest.raises(ModelError, match=rf"config\.json .*{message}"):
        load(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "geneformer.json", "genes.tsv", "aliases.tsv"])
def test_huge_files_are_not_read(ours, name):
    with open(ours / name, "wb") as file:
        file.truncate(2**33)
    with pytest.raises(ModelError, match=rf"{name} has 8,589,934,592 bytes, and at most"):
        load(ours)


@pytest.mark.parametrize("name", ["args.json", "vocab.json"])
def test_huge_files_of_scgpt_are_not_read(tmp_path, name):
    (tmp_path / "args.json").write_text('{"embsize": 8, "nlayers": 1, "nheads": 1, "d_hid": 8}')
    (tmp_path / "vocab.json").write_text('{"<pad>": 0}')
    (tmp_path / "best_model.pt").write_bytes(b"")
    with open(tmp_path / name, "wb") as file:
        file.truncate(2**33)
    with pytest.raises(ModelError, match=rf"{name} has 8,589,934,592 bytes, and at most"):
        load(tmp_path)


META = {
    "input_size": (10**12, "input_size=1,000,000,000,000 must be from 2, the special tokens of a cell, to 1,048,576"),
    "special_tokens": ({"<pad>": 10**12}, "gives out the token 1,000,000,000,000"),
    "target_sum": (-1.0, r"target_sum=-1\.0 must be a positive number"),
    "record": ([1], "cannot be read"),
    "encoding": ({"name": "two-time-points"}, "needs the special tokens <cls> and <sep>"),
}


@pytest.mark.parametrize("entry", META)
def test_vocabularies_that_lie_are_refused(ours, entry):
    value, message = META[entry]
    change(ours / "geneformer.json", **{entry: value})
    with pytest.raises(ModelError, match=message):
        models.load_vocabulary(ours)


ENCODINGS = [5, [], {}, {"name": ["x"]}, {"name": "value-binned", "n_bins": 10**12}, {"name": "os.system"}]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_encodings_that_lie_are_refused(ours, encoding):
    change(ours / "geneformer.json", encoding=encoding)
    with pytest.raises(ModelError):
        models.load_vocabulary(ours)


def test_genes_that_lie_are_refused(ours):
    lines = (ours / "genes.tsv").read_text().splitlines()
    for line, message in {
        "2147483647\tENSG1\tA\t1.0": "gives out the token 2,147,483,647",
        "99999999999999999999\tENSG1\tA\t1.0": "cannot be read|gives out",
        f"4\t{'E' * 10**6}\tA\t1.0": "is no name of a gene",
        "4\tENSG1\tA\tx": "cannot be read",
        "4\tENSG1\tA\t1.0\t7\t8": "cannot be read",
    }.items():
        (ours / "genes.tsv").write_text("\n".join([*lines[:-1], line]))
        with pytest.raises(ModelError, match=message) as caught:
            models.load_vocabulary(ours)
        assert len(str(caught.value)) < 1000


def test_a_pipe_is_not_waited_for(ours):
    (ours / "geneformer.json").unlink()
    os.mkfifo(ours / "geneformer.json")
    with pytest.raises(ModelError, match=r"geneformer\.json is no file"):
        models.load_vocabulary(ours)


def write_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HEADERS = {
    "longer than the file": struct.pack("<Q", 2**20) + b"{}",
    "of 2 ** 63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "of 100 MB": None,
    "of no JSON": (b"{" * 100, b""),
    "outside the file": ({"a": entry([4], 0, 16)}, b"\0" * 8),
    "far outside": ({"a": entry([2**60], 0, 2**62)}, b"\0" * 8),
    "overlapping": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12),
    "the same bytes for two": ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, b"\0" * 8),
    "with a hole": ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12),
    "backwards": ({"a": entry([1], 4, 0)}, b"\0" * 4),
    "negative": ({"a": entry([1], -4, 0)}, b"\0" * 4),
    "another shape": ({"a": entry([3], 0, 8)}, b"\0" * 8),
    "a shape beyond all numbers": ({"a": entry([2**40, 2**40], 0, 8)}, b"\0" * 8),
    "a negative shape": ({"a": entry([-1, -2], 0, 8)}, b"\0" * 8),
    "an unknown dtype": ({"a": entry([2], 0, 8, "PY")}, b"\0" * 8),
    "bytes behind the end": ({"a": entry([1], 0, 4)}, b"\0" * 99),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_safetensors_that_lie_are_refused(checkpoint, kind):
    path, content = checkpoint / WEIGHTS, HEADERS[kind]
    if content is None:
        write_header(path, b" " * 100 * 2**20)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_header(path, *content)
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        load(checkpoint)


def test_a_name_given_twice_is_one_tensor(checkpoint):
    write_header(
        checkpoint / WEIGHTS,
        b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b"\0" * 8,
    )
    with pytest.raises(ModelError, match=r"is not a whole safetensors file|lacks the tensor|holds 0 tensors"):
        load(checkpoint)


def weights(folder):
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    return tensors


class Call:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def rezip(path, compression=zipfile.ZIP_STORED, **changes):
    """Write a torch archive anew."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, changes.get(name.rpartition("/")[2], content))


def compressed(path, tensors):
    torch.save(tensors, path)
    rezip(path, zipfile.ZIP_DEFLATED)


def with_a_huge_pickle(path, tensors):
    torch.save(tensors, path)
    rezip(path, **{"data.pkl": b"(" * (_weights.MOST_HEADER + 1)})


def with_code(path, tensors):
    torch.save(tensors, path)
    rezip(path, **{"data.pkl": pickle.dumps(Call(), 2)})


def overlapping(path, tensors):
    """Ten entries of the directory at the end lead to the same bytes."""
    torch.save(tensors, path)
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
        archive.filelist += [largest] * 10
        archive._didModify = True


def behind_a_pickle(path, tensors):
    torch.save(tensors, path)
    path.write_bytes(pickle.dumps(Call(), 2) + path.read_bytes())


BINS = {
    "code": (with_code, "Nothing in it was executed"),
    "a plain pickle": (lambda path, _: path.write_bytes(pickle.dumps(Call())), "it is no archive, as torch"),
    "an archive behind a pickle": (behind_a_pickle, "it is no archive, as torch"),
    "the form before torch 1.6": (
        lambda path, tensors: torch.save(tensors, path, _use_new_zipfile_serialization=False),
        "it is no archive, as torch has written them since version 1.6",
    ),
    "compressed": (compressed, "it is a compressed archive, and those that are read are not"),
    "overlapping": (overlapping, "its members have more bytes than the file"),
    "a huge pickle": (with_a_huge_pickle, "its pickle has more than 4,194,304 bytes"),
    "one number for 10 ** 18": (
        lambda path, _: torch.save({"a": torch.zeros(1).expand(10**9, 10**9)}, path),
        "its tensors are views that stand for more numbers than it holds",
    ),
    "sparse": (
        lambda path, _: torch.save({"a": torch.zeros(3, 3).to_sparse()}, path),
        "holds no dictionary of tensors",
    ),
    "without memory": (
        lambda path, _: torch.save({"a": torch.empty(10**9, 10**9, device="meta")}, path),
        "holds no dictionary of tensors",
    ),
    "numbers for names": (lambda path, _: torch.save({1: torch.zeros(3)}, path), "holds no dictionary of tensors"),
    "whole numbers": (
        lambda path, tensors: torch.save({n: t.to(torch.int8) for n, t in tensors.items()}, path),
        "floating-point numbers",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", BINS)
def test_weights_of_torch_that_lie_are_refused(checkpoint, kind, monkeypatch):
    monkeypatch.chdir(checkpoint)
    write, message = BINS[kind]
    write(checkpoint / BIN, weights(checkpoint))
    with pytest.raises(ModelError, match=message):
        load(checkpoint)
    assert not (checkpoint / "executed").exists()


def test_whole_weights_of_torch_are_read(checkpoint):
    expected = load(checkpoint).bert.state_dict()
    torch.save(weights(checkpoint), checkpoint / BIN)
    assert all(torch.equal(t, expected[n]) for n, t in load(checkpoint).bert.state_dict().items())


BLOCKS = {
    "kind": ({"kind": "evil", "pooling": "first", "tasks": []}, "cannot be read: .*evil"),
    "tasks": ({"kind": "cells", "pooling": "first", "tasks": "abc"}, "cannot be read"),
    "list": ([], "cannot be read"),
    "classes": ({"kind": "cells", "pooling": "first", "tasks": [{"label": "a", "classes": 5}]}, "cannot be read"),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_classifiers_that_lie_are_refused(checkpoint, kind):
    folder = as_classifier(checkpoint)
    block, message = BLOCKS[kind]
    change(folder / CONFIG, scgeneformer=block)
    with pytest.raises(ModelError, match=message):
        load_classifier(load(folder), "cells")


@pytest.mark.parametrize("names", [{"x": "a"}, ["a", "b"], 5, {"0": "a", "1": "b", "2": "c"}], ids=str)
def test_classes_that_lie_are_refused(checkpoint, names):
    folder = as_classifier(checkpoint)
    change(folder / CONFIG, architectures=["BertForSequenceClassification"], id2label=names)
    with pytest.raises(ModelError, match=r"id2label in the config of tiny|does not fit its config"):
        load_classifier(load(folder), "cells")


def as_classifier(folder):
    from safetensors.torch import load_file, save_file

    head = {"classifier.weight": torch.zeros(2, 16), "classifier.bias": torch.zeros(2)}
    save_file({n: t.clone() for n, t in (load_file(folder / WEIGHTS) | head).items()}, folder / WEIGHTS)
    return folder


def lying(path, shape):
    """An array that claims more than there is."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("format.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"shape": shape, "fortran_order": False, "descr": "<f8"})


STATISTICS = {
    "a pickle": (lambda path: np.savez(path, format=np.array([Call()], dtype=object)), "allow_pickle=False"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps(Call())), "not a zip file"),
    "compressed": (lambda path: np.savez_compressed(path, format=np.zeros(10**7)), "it is a compressed archive"),
    "a huge shape": (lambda path: lying(path, (10**17,)), "holds no gene statistics"),
    "a shape beyond all numbers": (lambda path: lying(path, (2**63, 2**63)), "holds no gene statistics"),
}


@pytest.mark.parametrize("kind", STATISTICS)
def test_statistics_that_lie_are_refused(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, message = STATISTICS[kind]
    write(tmp_path / "x.npz")
    with pytest.raises(DataError, match=message):
        models.GeneStatistics.load(tmp_path / "x.npz")
    assert not (tmp_path / "executed").exists()
