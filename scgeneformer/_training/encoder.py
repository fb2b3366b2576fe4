"""The encoder a training begins with: a copy of a pretrained one, or one of random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from scgeneformer._engine.encoder import new_bert
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import BertConfig, BertModel

    from scgeneformer._engine.vocabulary import Vocabulary

CLS = "<cls>"


def with_cls(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary with a ``<cls>`` token behind all others, in front of every cell; itself if it has one."""
    if vocabulary.cls_token is not None:
        return vocabulary
    return replace(vocabulary, special={**vocabulary.special, CLS: vocabulary.n_tokens})


def copy_encoder(
    bert: BertModel, *, num_layers: int | None = None, n_tokens: int | None = None, dropout: float | None = None
) -> BertModel:
    """Trainable float32 copy of an encoder on the CPU.

    Parameters
    ----------
    bert
        The encoder.
    num_layers
        Blocks to keep, from the first on; None keeps all.
    n_tokens
        Rows of the word embeddings; those that `bert` does not have begin as the mean of all rows.
    dropout
        Dropout everywhere; None takes what the config says.

    Raises
    ------
    DataError
        If there are not so many blocks.
    """
    changes = {"num_hidden_layers": _kept(bert, num_layers), "vocab_size": n_tokens, **_dropout(dropout)}
    fresh = new_encoder(bert.config, **{name: value for name, value in changes.items() if value is not None})
    weights = {name: tensor.float() for name, tensor in bert.state_dict().items()}
    words = weights[name := "embeddings.word_embeddings.weight"]
    added = words.mean(dim=0, keepdim=True).expand(fresh.config.vocab_size - len(words), -1)
    weights[name] = torch.cat([words, added])
    fresh.load_state_dict({name: weights[name] for name in fresh.state_dict()})
    return fresh


def random_encoder(
    like: BertConfig,
    changes: Mapping[str, Any] | None,
    *,
    n_tokens: int,
    seed: int,
    num_layers: int | None = None,
    dropout: float | None = None,
) -> BertModel:
    """Trainable encoder of random weights.

    Parameters
    ----------
    like
        Config to start from.
    changes
        Entries of the config to change, such as ``{"hidden_size": 128}``.
    n_tokens
        Rows of the word embeddings.
    seed
        Of the weights.
    num_layers
        Blocks; None takes those of the config.
    dropout
        Dropout everywhere; None takes what the config says.

    Raises
    ------
    DataError
        If the config has no such entry, or no model can be built of it.
    """
    changes = dict(changes or {})
    known = set(like.to_dict()) - {"vocab_size"}  # that is the vocabulary's
    if unknown := sorted(set(changes) - known):
        raise DataError(f"config={{{unknown[0]!r}: ...}} is no entry that can be set; these are: {sorted(known)}.")
    if num_layers is not None:
        changes["num_hidden_layers"] = num_layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return new_encoder(like, **{**changes, **_dropout(dropout), "vocab_size": n_tokens})
        except Exception as error:
            raise DataError(f"config={changes}: no BERT model can be built of it: {error}.") from error


def without_positions(bert: BertModel) -> BertModel:
    """Let the encoder know nothing of the rank of a gene: its position embeddings become zero; returns it.

    They are to stay so: see `freeze`. What is saved is an ordinary BERT whose position embeddings are zero.
    """
    with torch.no_grad():
        bert.embeddings.position_embeddings.weight.zero_()
    return bert


def _kept(bert: BertModel, num_layers: int | None) -> int | None:
    there = bert.config.num_hidden_layers
    if num_layers is not None and not 1 <= num_layers <= there:
        raise DataError(f"num_layers={num_layers} must be from 1 to {there}, the blocks of the model.")
    return num_layers


def _dropout(dropout: float | None) -> dict[str, float]:
    """Entries of the config; none for None."""
    return {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}


def new_encoder(like: BertConfig, **changes: Any) -> BertModel:
    """Encoder whose weights are drawn, with some entries of the config changed."""
    config = type(like).from_dict(like.to_dict() | changes)
    return new_bert(config).float()


def default_config(vocabulary: Vocabulary, hidden_size: int = 256) -> BertConfig:
    """Config of a model from scratch: that of Geneformer-V1-10M (Theodoris et al. 2023), of any width.

    Six blocks; attention heads of width 64 and a feed-forward layer twice as wide as the model, whatever its width;
    ReLU, dropout 0.02; as many positions as the vocabulary allows tokens per cell.
    """
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary.n_tokens,
        hidden_size=hidden_size,
        num_hidden_layers=6,
        num_attention_heads=max(1, hidden_size // 64),
        intermediate_size=2 * hidden_size,
        hidden_act="relu",
        hidden_dropout_prob=0.02,
        attention_probs_dropout_prob=0.02,
        max_position_embeddings=vocabulary.n_positions,
        pad_token_id=vocabulary.special.get("<pad>", 0),
    )
