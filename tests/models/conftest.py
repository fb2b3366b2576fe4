"""Tiny models built by hand, as directories, and a hub on this machine that serves them."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from models.hub_server import HubServer

from scgeneformer import models
from scgeneformer._engine.vocabulary import Vocabulary, write_vocabulary
from scgeneformer.models import _registry, _weights

GENES = [f"ENSG{i:011d}" for i in range(1, 31)]
SPECIAL = {"V1": {"<pad>": 0, "<mask>": 1}, "V2": {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}}
COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch):
    """Every test starts and ends with nothing in memory."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    models.clear_cache()
    _weights.READS.clear()
    yield
    models.clear_cache()


def vocabulary(kind: str = "V2", n_genes: int = len(GENES)) -> Vocabulary:
    special = SPECIAL[kind]
    return Vocabulary(
        tokens=np.arange(len(special), len(special) + n_genes, dtype=np.int32),
        ensembl_ids=np.array(GENES[:n_genes]),
        symbols=np.array([f"GENE{i}" for i in range(n_genes)]),
        medians=np.linspace(0.1, 7, n_genes) / 3,
        special=special,
        input_size=64,
        aliases={"OLDGENE": GENES[0]},
    )


def config(n_tokens: int, **changes) -> dict:
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": n_tokens,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        **changes,
    }


def masked_lm(settings: dict, seed: int = 0):
    """A stock `BertForMaskedLM` with random weights."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    return BertForMaskedLM(BertConfig.from_dict(settings)).eval()


def write_pickles(folder: Path, kind: str = "V2", n_genes: int = len(GENES), suffix: str = "gc104M") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    v = vocabulary(kind, n_genes)
    contents = {
        "token_dictionary": {**v.special, **v.token_of_id},
        "gene_median_dictionary": dict(zip(v.ensembl_ids.tolist(), v.medians.tolist(), strict=True)),
        "ensembl_mapping_dict": {**{g: g for g in v.token_of_id}, **v.aliases},
        "gene_name_id_dict": dict(zip(v.symbols.tolist(), v.ensembl_ids.tolist(), strict=True)),
    }
    for name, content in contents.items():
        (folder / f"{name}_{suffix}.pkl").write_bytes(pickle.dumps(content))
    return folder


def write_weights(folder: Path, settings: dict | None = None, seed: int = 0) -> Path:
    """Config and weights as `save_pretrained` writes them, the head included."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    settings = settings or config(vocabulary().n_tokens)
    (folder / "config.json").write_text(json.dumps(settings))
    state = masked_lm(settings, seed).state_dict()
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    save_file({k: t for k, t in state.items() if k not in tied}, folder / "model.safetensors")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny checkpoint in the reference's layout, dictionaries beside it."""
    return write_pickles(write_weights(tmp_path / "tiny"))


@pytest.fixture
def ours(tmp_path):
    """A tiny checkpoint in our layout."""
    folder = write_weights(tmp_path / "ours")
    write_vocabulary(vocabulary(), folder)
    return folder


@dataclass
class Hub:
    """A hub server, the cache of this test, and the table entry "Tiny" that is on it."""

    server: HubServer
    cache: Path
    files: dict[str, bytes]

    def snapshot(self, path: str, commit: str = COMMIT, repo: str = "lab/models") -> Path:
        return self.cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit / path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    root = tmp_path / "served"
    write_weights(root / "tiny")
    write_pickles(root / "dictionaries")
    shutil.copytree(root / "tiny", root / "tuned")
    write_weights(root / "complete", seed=1)
    write_vocabulary(vocabulary(), root / "complete")
    files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    _write_table(tmp_path / "models.toml", files)
    monkeypatch.setattr(_registry, "TABLE", tmp_path / "models.toml")
    cache = tmp_path / "hub"
    with HubServer({("lab/models", COMMIT): files}, branches={"main": COMMIT}) as server:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield Hub(server, cache, files)


def _write_table(path: Path, files: dict[str, bytes]) -> None:
    def lines(folder: str) -> list[str]:
        found = {name: content for name, content in files.items() if name.startswith(f"{folder}/")}
        return [
            f'"{name}" = {{ sha256 = "{hashlib.sha256(content).hexdigest()}", bytes = {len(content)} }}'
            for name, content in found.items()
        ]

    table = [
        *("[dictionaries.V2]", "input_size = 64", f"n_genes = {len(GENES)}"),
        f"special_tokens = {json.dumps(list(SPECIAL['V2']))}",
        *("[dictionaries.V2.files]", *lines("dictionaries")),
        *(
            "[models.Tiny]",
            'repo = "lab/models"',
            'subfolder = "tiny"',
            f'revision = "{COMMIT}"',
            'dictionaries = "V2"',
        ),
        *("layers = 2", "width = 16", "parameters = 1", 'licence = "CC0-1.0"', 'aliases = ["Little"]'),
        *("[models.Tiny.files]", *lines("tiny")),
        *("[models.mini]", 'folder = "mini"', 'licence = "CC0-1.0"'),
    ]
    path.write_text("\n".join(table))
