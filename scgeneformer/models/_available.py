"""List the models known by name."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any

import pandas as pd

from scgeneformer.models import _hub, _registry
from scgeneformer.models._geneformer import CONFIG_FILE, find_weights

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = (
    *("repo", "subfolder", "revision", "layers", "width", "input_size", "n_genes", "special_tokens", "licence"),
    *("parameters", "size_mb", "downloaded"),
)
COUNTS = ("layers", "width", "input_size", "n_genes", "parameters")


def available() -> pd.DataFrame:
    """List the models known by name, without network.

    Returns
    -------
    One row per model, by name: `repo`, `subfolder` and `revision` on the Hugging Face hub (empty for the model inside
    this package), `layers`, `width`, `input_size` (longest sequence, special tokens included), `n_genes`,
    `special_tokens`, `licence` of the weights, `parameters` (language-model head included), `size_mb` of all files,
    and `downloaded`: whether all of them are on this machine.

    See Also
    --------
    load : load one of them, or any other Geneformer checkpoint.
    download : fetch one of them.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.models.available().loc["V2-104M", "special_tokens"]
    '<pad> <mask> <cls> <eos>'
    """
    rows = {entry.name: _row(entry) for entry in _registry.entries().values()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS)).rename_axis("name")
    return table.astype(dict.fromkeys(COUNTS, "Int64"))


def _row(entry: _registry.Entry) -> list[Any]:
    facts = vars(entry) | {
        "size_mb": round(sum(file.bytes for file in entry.files.values()) / 1e6, 1),
        "downloaded": all(_hub.cached(entry.repo, path, entry.revision) for path in entry.files),
    }
    if entry.folder is not None:
        facts |= {"downloaded": False} | _facts(entry.folder)
    return [" ".join(facts[c]) if c == "special_tokens" else facts[c] for c in COLUMNS]


def _facts(folder: Path) -> dict[str, Any]:
    """Read from its own files what the model in `folder` is like."""
    weights = find_weights(folder)
    if weights is None:
        return {}
    from safetensors import safe_open

    from scgeneformer._engine.vocabulary import read_vocabulary

    config, vocabulary = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")), read_vocabulary(folder)
    with safe_open(weights, framework="numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  it is no dictionary
    return {
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "input_size": vocabulary.input_size,
        "n_genes": len(vocabulary.tokens),
        "special_tokens": tuple(vocabulary.special),
        "parameters": sum(prod(shape) for shape in shapes),
        "size_mb": round(sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6, 1),
        "downloaded": True,
    }
