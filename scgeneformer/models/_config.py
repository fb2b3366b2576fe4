"""Read and check `config.json`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from scgeneformer._errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import BertConfig

NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


def read_config(path: Path) -> dict:
    """Read the config of a BERT with absolute positions, as it is in the file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not readable JSON ({error}). Fetch it again.") from error
    if not isinstance(config, dict) or config.get("model_type") != "bert":
        kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise ModelError(f"{path} is not the config of a BERT (model_type {kind!r}); Geneformer models are BERTs.")
    if missing := [name for name in NEEDED if not isinstance(config.get(name), int) or config[name] < 1]:
        raise ModelError(f"{path} gives no usable {missing[0]}: {config.get(missing[0])!r} instead of a count.")
    if (positions := config.get("position_embedding_type", "absolute")) != "absolute":
        raise ModelError(f"{path} asks for {positions!r} positions; only 'absolute' ones are supported.")
    return config


def bert_config(config: dict, path: Path) -> BertConfig:
    """Build the transformers config of the encoder from the entries that were read from a file."""
    from transformers import BertConfig

    try:
        built = BertConfig.from_dict(config)
        if built.hidden_size % built.num_attention_heads:
            raise ValueError(f"{built.hidden_size} does not divide into {built.num_attention_heads} heads")
    except Exception as error:  # transformers 5 raises classes of its own
        raise ModelError(f"{path} is not a usable BERT config: {error}") from error
    return built
