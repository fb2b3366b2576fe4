"""How a directory of an scGPT model is laid out, and how its tensors become those of a stock BERT.

A layout as `_layouts.Layout` describes. scGPT (Cui et al. 2024, `TransformerModel` of its code) adds two embeddings and
runs post-norm transformer blocks:

- of genes, a layer norm of an embedding. It is computed once for every gene: the word embeddings.
- of values, a small network, ``LayerNorm(W2 relu(W1 min(x, 512) + b1) + b2)``. The values are bins, so it is computed
  once for each of them, for `pad_value`, which ``<cls>`` carries, and for `mask_value`: the position embeddings.

The sum has no layer norm (``embedding_norm: false``). The blocks, `torch.nn.TransformerEncoderLayer` or its twin on
flash attention, are those of a BERT under other names. Decoders are left out: no hidden state depends on them.

Tokens are numbered anew, special ones first, as in all vocabularies here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._engine.value_bins import ValueBinned
from scgeneformer._engine.vocabulary import Vocabulary, names_of
from scgeneformer._errors import ModelError
from scgeneformer._foreign import read_json
from scgeneformer.models import _weights

if TYPE_CHECKING:
    from pathlib import Path

    import torch

CONFIG_FILE = "args.json"
WEIGHT_FILES: tuple[str, ...] = ("best_model.pt",)
VOCABULARY_FILE = VOCABULARY = "vocab.json"
SPECIAL = ("<pad>", "<cls>", "<eoc>")
SIZES = {
    "embsize": "hidden_size",
    "nlayers": "num_hidden_layers",
    "nheads": "num_attention_heads",
    "d_hid": "intermediate_size",
}
DEFAULTS = {"n_bins": 51, "max_seq_len": 1200, "pad_value": -2, "mask_value": -1, "dropout": 0.2}
LARGEST_VALUE = 512.0  # larger ones count as this
EPS = 1e-5  # of all layer norms

CANNOT = {  # option, the only value that can be run: why
    ("input_emb_style", "continuous"): "values are embedded in another way than by the network that is evaluated here",
    ("input_style", "binned"): "the model reads values that are no bins",
    ("pre_norm", False): "its blocks normalise before attention, and those that are run here behind it",
}
CANNOT_HOLD = {  # beginning of tensor names: why
    "dsbn.": "it normalises embeddings by batch (domain-specific batch normalisation), and batches are not told here",
    "bn.": "it normalises embeddings over a batch of cells",
    "mod_encoder.": "it embeds the modality of each token (multi-omic models), which is not told here",
}

_BLOCK = re.compile(r"transformer_encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}
_QKV = ("self_attn.in_proj", "self_attn.Wqkv")


def has_vocabulary(folder: Path) -> bool:
    """Whether `folder` holds a vocabulary."""
    return (folder / VOCABULARY_FILE).is_file()


def vocabulary_files(folder: Path) -> list[Path]:
    """The files of the vocabulary in `folder`."""
    return [folder / VOCABULARY_FILE]


def read_config(path: Path) -> dict[str, Any]:
    """Entries of the config of the BERT that `args.json` amounts to."""
    args = _read_args(path)
    names, _ = _read_names(path.parent)
    return {
        "model_type": "bert",
        "vocab_size": len(names),
        **{bert: args[name] for name, bert in SIZES.items()},
        "max_position_embeddings": _encoding(args).n_positions,
        "type_vocab_size": 1,
        "hidden_act": "relu",
        "layer_norm_eps": EPS,
        "hidden_dropout_prob": args["dropout"],
        "attention_probs_dropout_prob": args["dropout"],
        "pad_token_id": 0,
        "embedding_norm": False,
    }


def read_vocabulary(folder: Path, config: Path) -> Vocabulary:
    """Read the vocabulary in `folder`: symbols, which are its IDs, too."""
    args = _read_args(config)
    names, _ = _read_names(folder)
    n_special = sum(map(_is_special, names))
    genes = names_of(names[n_special:])
    return Vocabulary(
        tokens=np.arange(n_special, len(names), dtype=np.int32),
        ensembl_ids=genes,
        symbols=genes,
        medians=np.ones(len(genes)),
        special={name: token for token, name in enumerate(names[:n_special])},
        input_size=args["max_seq_len"],
        record={"layout": "scGPT"},
        encoding=_encoding(args),
    )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of the encoder by the names of a stock BERT, float32."""
    args = _read_args(path.parent / CONFIG_FILE)
    found = {name.removeprefix("module."): tensor.float() for name, tensor in _weights.read_tensors(path).items()}
    for beginning, why in CANNOT_HOLD.items():
        if any(name.startswith(beginning) for name in found):
            raise ModelError(f"{path} cannot be run: {why}.")
    try:
        return {**_embeddings(found, args, path.parent), **_blocks(found)}
    except KeyError as error:
        raise ModelError(f"{path} lacks the tensor {error.args[0]}; is it a model of scGPT?") from error


def _embeddings(found: dict[str, torch.Tensor], args: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Word and position embeddings; those of token types are zero."""
    import torch
    from torch.nn.functional import layer_norm, linear

    def normed(rows: torch.Tensor, norm: str) -> torch.Tensor:
        return layer_norm(rows, rows.shape[-1:], found[f"{norm}.weight"], found[f"{norm}.bias"], EPS)

    def dense(rows: torch.Tensor, name: str) -> torch.Tensor:
        return linear(rows, found[f"value_encoder.{name}.weight"], found[f"value_encoder.{name}.bias"])

    words, (names, places) = found["encoder.embedding.weight"], _read_names(folder)
    if len(words) != len(names):
        raise ModelError(
            f"The vocabulary does not fit the weights: {folder / VOCABULARY_FILE} has {len(names):,} tokens, "
            f"{folder / WEIGHT_FILES[0]} {len(words):,}. The two belong to different models."
        )
    values = torch.tensor([*range(args["n_bins"]), args["pad_value"], args["mask_value"]]).float()
    hidden = dense(values.clamp(max=LARGEST_VALUE)[:, None], "linear1").relu()
    return {
        "embeddings.word_embeddings.weight": normed(words[torch.from_numpy(places)], "encoder.enc_norm"),
        "embeddings.position_embeddings.weight": normed(dense(hidden, "linear2"), "value_encoder.norm"),
        "embeddings.token_type_embeddings.weight": torch.zeros(1, words.shape[1]),
    }


def _blocks(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the transformer blocks."""
    blocks = {}
    for name, tensor in found.items():
        if (match := _BLOCK.fullmatch(name.replace("._impl.", ".").replace("in_proj_", "in_proj."))) is None:
            continue
        number, part, kind = match.groups()
        if part in _QKV:
            for of, some in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                blocks[f"encoder.layer.{number}.attention.self.{of}.{kind}"] = some
        else:
            blocks[f"encoder.layer.{number}.{_PARTS.get(part, part)}.{kind}"] = tensor
    return blocks


def _encoding(args: dict[str, Any]) -> ValueBinned:
    return ValueBinned(args["n_bins"])


def _read_args(path: Path) -> dict[str, Any]:
    """The options of the model, with defaults for those that are absent; checked."""
    args = DEFAULTS | _read_json(path)
    for (name, only), why in CANNOT.items():
        if (value := args.get(name, only)) != only:
            raise ModelError(f"{path} asks for {name}={value!r}, and such a model cannot be run: {why}.")
    for name in (*SIZES, "n_bins", "max_seq_len"):
        if not isinstance(args.get(name), int) or args[name] < 1:
            raise ModelError(f"{path} gives no usable {name}: {args.get(name)!r} instead of a count.")
    for name in ("pad_value", "mask_value", "dropout"):
        if not isinstance(args[name], int | float):
            raise ModelError(f"{path} gives no usable {name}: {args[name]!r} instead of a number.")
    return args


def _read_names(folder: Path) -> tuple[list[str], np.ndarray]:
    """Names of all tokens in our order, special ones first, and the row of each in scGPT's embedding, (n,) int64."""
    table = _read_json(path := folder / VOCABULARY_FILE)
    if not all(isinstance(row, int) for row in table.values()) or sorted(table.values()) != list(range(len(table))):
        raise ModelError(f"{path} does not number its tokens 0, 1, ..., each once.")
    for name in SPECIAL:
        table.setdefault(name, len(table))  # as scGPT appends those that are absent
    rest = sorted(table.keys() - set(SPECIAL), key=lambda name: (not _is_special(name), table[name]))
    names = [*SPECIAL, *rest]
    return names, np.array([table[name] for name in names], dtype=np.int64)


def _is_special(name: str) -> bool:
    return name.startswith("<")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} is not readable JSON ({error}). Fetch it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a {type(found).__name__}, not names and what belongs to them.")
    return found
