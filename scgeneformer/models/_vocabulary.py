"""Vocabularies, each read once and checked against the config of its model; needs neither weights nor torch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from scgeneformer._engine.dictionaries import RELEASES
from scgeneformer._errors import ModelError
from scgeneformer.models._checksum import Stamp, stamp
from scgeneformer.models._files import vocabulary_state
from scgeneformer.models._layouts import layout_of

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer._engine.vocabulary import Vocabulary


def get_vocabulary(folder: Path, config: Path) -> Vocabulary:
    """Return the vocabulary in `folder` for the model of `config`."""
    return _read(folder, config, (stamp(config), *vocabulary_state(layout_of(config.parent), folder)))


@lru_cache(maxsize=8)
def _read(folder: Path, config_file: Path, state: tuple[Stamp, ...]) -> Vocabulary:
    layout = layout_of(config_file.parent)
    config = layout.read_config(config_file)
    n_positions, n_rows = config["max_position_embeddings"], config["vocab_size"]
    vocabulary = layout.read_vocabulary(folder, config_file)
    if vocabulary.n_tokens != n_rows:
        raise ModelError(
            f"The vocabulary does not fit the weights: the weights look like {_looks_like(n_rows)}, the dictionaries "
            f"like {_looks_like(vocabulary.n_tokens)} (weights in {config_file.parent}, dictionaries in {folder}). "
            "Name the folder with the dictionaries of this model: dictionaries='...'."
        )
    if vocabulary.n_positions > n_positions:
        per_cell = vocabulary.encoding.n_positions is None
        asks = f"allows {vocabulary.input_size} tokens per cell" if per_cell else f"asks for {vocabulary.n_positions}"
        raise ModelError(
            f"The vocabulary in {folder} {asks}, the model in {config_file.parent} has {n_positions} positions. The "
            "two belong to different models."
        )
    return vocabulary


def forget() -> None:
    """Free all vocabularies that are not in use."""
    _read.cache_clear()


def _looks_like(n_tokens: int) -> str:
    name = next((release.name for release in RELEASES if release.n_tokens == n_tokens), "neither V1 nor V2")
    return f"{name} ({n_tokens:,} tokens)"
