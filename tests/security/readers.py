"""The readers of foreign files as functions of bytes, for `test_fuzz.py` and `scripts/fuzz_readers.py`.

A reader may do two things with any bytes: read them, or raise one of our errors, in short.
"""

from __future__ import annotations

import atexit
import json
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scgeneformer import models
from scgeneformer._engine.dictionaries import read_dictionary, vocabulary_from_dictionaries
from scgeneformer._errors import DataError, ModelError

LONGEST_MESSAGE = 2000
SHARED_MEMORY = Path("/dev/shm")
FOLDER = Path(tempfile.mkdtemp(prefix="readers-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def refused(read: Callable[[], object]) -> bool:
    """Whether a reader refuses what it is given; all errors but ours go on."""
    try:
        read()
    except (ModelError, DataError) as error:
        message = str(error)
    else:
        return False
    assert len(message) < LONGEST_MESSAGE, message[:200]
    assert not {"\0", "\x1b"} & set(message), message[:200]
    return True


def dictionary(data: bytes) -> None:
    """One dictionary pickle."""
    path = FOLDER / "d.pkl"
    path.write_bytes(data)

    def read() -> None:
        found = read_dictionary(path)
        assert type(found) is dict
        assert {type(name) for name in found} <= {str}
        assert {type(value) for value in found.values()} <= {str, int, float}

    refused(read)


def vocabulary(data: bytes) -> None:
    """Two dictionaries, one after the other, the first as long as its first byte says."""
    folder = FOLDER / "vocabulary"
    folder.mkdir(exist_ok=True)
    n = data[0] if data else 0
    (folder / "token_dictionary.pkl").write_bytes(data[1 : n + 1])
    (folder / "gene_median_dictionary.pkl").write_bytes(data[n + 1 :])

    def read() -> None:
        found = vocabulary_from_dictionaries(folder)
        assert len(found.median_of_token) == found.n_tokens

    refused(read)


FILES = ("config.json", "geneformer.json", "genes.tsv", "aliases.tsv", "model.safetensors", "pytorch_model.bin")
SCGPT_FILES = ("args.json", "vocab.json", "best_model.pt")


def model(data: bytes) -> None:
    """A model directory in which one file, told by the first byte, is another one."""
    _load_with(_checkpoint(), FILES, data)


def scgpt(data: bytes) -> None:
    """The same of a directory of scGPT."""
    _load_with(_scgpt(), SCGPT_FILES, data)


def _load_with(folder: Path, names: tuple[str, ...], data: bytes) -> None:
    path = folder / names[data[0] % len(names)] if data else folder / names[0]
    before = path.read_bytes() if path.is_file() else None
    if path.name == "pytorch_model.bin":
        (folder / "model.safetensors").rename(folder / "weights")
    path.write_bytes(data[1:])
    try:
        refused(lambda: models.load(folder, device="cpu").n_parameters)
    finally:
        models.clear_cache()
        path.unlink() if before is None else path.write_bytes(before)
        if path.name == "pytorch_model.bin":
            (folder / "weights").rename(folder / "model.safetensors")


def tokens(data: bytes) -> None:
    """A folder of tokens whose Arrow file is another one."""
    from toys import make_vocabulary

    from scgeneformer._adata.disk.token_files import TokenFile

    folder = FOLDER / "tokens"
    if not folder.is_dir():
        _write_tokens(folder)
    (folder / "data.arrow").write_bytes(data)

    def read() -> None:
        file = TokenFile(folder, make_vocabulary(), truncate=True, drop_duplicates=True)
        for name in file.columns:
            file.column(name)
        for _ in file.blocks():
            pass

    refused(read)


READERS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one for one in (dictionary, vocabulary, model, scgpt, tokens)
}


def seeds(name: str) -> list[bytes]:
    """Whole files with which a search begins."""
    return {"dictionary": _pickles, "vocabulary": _vocabularies}.get(name, lambda: _folders(name))()


def damaged(data: bytes, other: bytes, numbers: random.Random) -> bytes:
    """A file with a few bytes changed, left out, repeated, or taken from another one."""
    bytes_ = bytearray(data)
    for _ in range(numbers.randint(1, 4)):
        start = numbers.randint(0, max(0, len(bytes_) - 1))
        stop = min(len(bytes_), start + numbers.choice((1, 1, 1, 4, 8, 64)))
        piece = other[(at := numbers.randrange(len(other))) : at + stop - start]
        kind = numbers.choice((0, 0, 1, 2, 3, 3, 4, 5, 5))
        bytes_[start:stop] = (
            bytes(numbers.randrange(256) for _ in range(stop - start)),
            b"",
            bytes(bytes_[start:stop]) * 2,
            piece,
            numbers.choice((b"\xff", b"\0", b"9", b"-", b"[", b'"', b"true", b"1e999")),
            bytes(byte ^ 1 << numbers.randrange(8) for byte in bytes_[start:stop]),
        )[kind]
    return bytes(bytes_)


def _pickles() -> list[bytes]:
    numbers = {"ENSG1": np.int16(4), "ENSG2": np.float64(0.5), "ENSG3": np.float32(2), "ENSG4": np.int64(-(2**40))}
    plain = {"<pad>": 0, "ENSG1": 300, "ENSG2": 70_000, "a": 0.5, "b": "c", "d": "é" * 90, "e": 2**40, "f": -1}
    many = {f"g{i}": i for i in range(50)}
    found = [pickle.dumps(content, protocol) for content in (plain, many, {}) for protocol in range(6)]
    return found + [pickle.dumps(numbers, protocol) for protocol in (3, 4, 5)]


def _vocabularies() -> list[bytes]:
    tokens_of, medians = {"<pad>": 0, "A": 1, "B": 2}, {"A": 1.0, "B": np.float64(2.0)}
    first = [pickle.dumps(tokens_of, protocol) for protocol in (0, 2, 4)]
    return [bytes([len(one)]) + one + pickle.dumps(medians, 4) for one in first]


def _folders(name: str) -> list[bytes]:
    if name == "tokens":
        _write_tokens(FOLDER / "tokens")
        return [(FOLDER / "tokens" / "data.arrow").read_bytes()]
    folder, names = {"model": (_checkpoint(), FILES), "scgpt": (_scgpt(), SCGPT_FILES)}[name]
    return [bytes([i]) + (folder / n).read_bytes() for i, n in enumerate(names) if (folder / n).is_file()] + _bin(name)


def _bin(name: str) -> list[bytes]:
    """The weights as torch writes them."""
    if name != "model":
        return []
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(_checkpoint() / "model.safetensors"), FOLDER / "bin")
    return [bytes([FILES.index("pytorch_model.bin")]) + (FOLDER / "bin").read_bytes()]


CONFIG = {
    "model_type": "bert",
    "vocab_size": 5,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 4,
    "max_position_embeddings": 8,
    "type_vocab_size": 2,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "pad_token_id": 0,
}


def _checkpoint() -> Path:
    """A model of a few hundred bytes a file."""
    folder = FOLDER / "model"
    if not folder.is_dir():
        from safetensors.torch import save_file
        from toys import make_vocabulary
        from transformers import BertConfig, BertModel

        from scgeneformer._engine.vocabulary import write_vocabulary

        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        bert = BertModel(BertConfig.from_dict(CONFIG), add_pooling_layer=False)
        save_file(bert.state_dict(), folder / "model.safetensors")
        write_vocabulary(make_vocabulary(3, input_size=8), folder)
    return folder


def _scgpt() -> Path:
    folder = FOLDER / "scgpt"
    if not folder.is_dir():
        import torch

        folder.mkdir()
        shapes = {"encoder.embedding.weight": (5, 4), "value_encoder.linear1.weight": (4, 1)}
        shapes |= {f"{name}.weight": (4,) for name in ("encoder.enc_norm", "value_encoder.norm")}
        shapes |= {f"{name}.bias": (4,) for name in ("encoder.enc_norm", "value_encoder.norm")}
        shapes |= {"value_encoder.linear1.bias": (4,), "value_encoder.linear2.bias": (4,)}
        shapes |= {"value_encoder.linear2.weight": (4, 4)}
        layer = "transformer_encoder.layers.0."
        for part, shape in {
            "self_attn.in_proj_": (12, 4),
            "self_attn.out_proj.": (4, 4),
            "linear1.": (4, 4),
            "linear2.": (4, 4),
            "norm1.": (4,),
            "norm2.": (4,),
        }.items():
            shapes |= {f"{layer}{part}weight": shape, f"{layer}{part}bias": shape[:1]}
        args = {"embsize": 4, "nlayers": 1, "nheads": 2, "d_hid": 4, "n_bins": 5, "max_seq_len": 6}
        (folder / "args.json").write_text(json.dumps(args))
        names = ("A", "B", "<pad>", "<cls>", "<eoc>")
        (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
        torch.save({name: torch.rand(shape) for name, shape in shapes.items()}, folder / "best_model.pt")
    return folder


def _write_tokens(folder: Path) -> None:
    import pyarrow as pa

    folder.mkdir(exist_ok=True)
    info = {"info": {"features": {"kind": {"_type": "ClassLabel", "names": ["x", "y"]}}}}
    table = pa.table(
        {
            "input_ids": pa.array([[5, 6, 7], [8, 9]], pa.list_(pa.int32())),
            "length": [3, 2],
            "organ": ["liver", "lung"],
            "kind": [0, 1],
            "day": pa.array([1, 2], pa.timestamp("s")),
            "male": [True, None],
        }
    ).replace_schema_metadata({b"huggingface": json.dumps(info).encode()})
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
