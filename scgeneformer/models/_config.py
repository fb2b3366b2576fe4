"""Read and check `config.json`."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from scgeneformer._errors import ModelError
from scgeneformer._foreign import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import BertConfig

NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
COUNTS = (*NEEDED, "intermediate_size", "type_vocab_size")
NUMBERS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "initializer_range")
SWITCHES = ("tie_word_embeddings", "embedding_norm")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")
TAKEN = (*COUNTS, *NUMBERS, *SWITCHES, "hidden_act", "pad_token_id")
"""Entries that decide what the encoder computes. No others reach transformers: some of them make it fetch code and run
it, such as `_attn_implementation` with a repository of kernels."""
OWN_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")


def read_config(path: Path) -> dict:
    """Read the config of a BERT with absolute positions, as it is in the file."""
    try:
        config = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} is not readable JSON ({error}). Fetch it again.") from error
    if not isinstance(config, dict) or config.get("model_type") != "bert":
        kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise ModelError(f"{path} is not the config of a BERT (model_type {kind!r}); Geneformer models are BERTs.")
    if asked := next((name for name in OWN_CODE if config.get(name)), None):
        raise ModelError(
            f"{path} was refused: the model asks to run code of its own ({asked}), and nothing in a model's files is "
            "ever executed. Only stock BERT encoders are run; if it is one, remove this entry."
        )
    for name in COUNTS:
        if name in (*NEEDED, *config) and not (_is_whole(config.get(name)) and config[name] >= 1):
            raise ModelError(f"{path} gives no usable {name}: {config.get(name)!r} instead of a count.")
    if (positions := config.get("position_embedding_type", "absolute")) != "absolute":
        raise ModelError(f"{path} asks for {positions!r} positions; only 'absolute' ones are supported.")
    return config


def bert_config(config: dict, path: Path) -> BertConfig:
    """Build the transformers config of the encoder from the entries that were read from a file."""
    from transformers import BertConfig

    taken = {name: config[name] for name in TAKEN if name in config}
    try:
        _check(taken)
        return BertConfig.from_dict(taken)
    except Exception as error:  # transformers 5 raises classes of its own
        raise ModelError(f"{path} is not a usable BERT config: {error}.") from error


def _check(taken: dict[str, Any]) -> None:
    if taken["hidden_size"] % taken["num_attention_heads"]:
        raise ValueError(f"{taken['hidden_size']} does not divide into {taken['num_attention_heads']} heads")
    for name in NUMBERS:
        if not isinstance(value := taken.get(name, 0.0), int | float) or not (isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value!r} and must be a number that is not negative")
    for name in SWITCHES:
        if not isinstance(value := taken.get(name, True), bool):
            raise ValueError(f"{name} is {value!r} and must be true or false")
    if (activation := taken.get("hidden_act", "gelu")) not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {activation!r}; known are {', '.join(ACTIVATIONS)}")
    pad = taken.get("pad_token_id")
    if pad is not None and not (_is_whole(pad) and 0 <= pad < taken["vocab_size"]):
        raise ValueError(f"pad_token_id is {pad!r} and must be a token")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
