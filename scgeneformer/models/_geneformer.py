"""How a directory of a Geneformer model is laid out, ours and the reference's alike; see `_layouts.Layout`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._engine.dictionaries import KINDS, find_dictionaries, vocabulary_from_dictionaries
from scgeneformer._engine.vocabulary import ALIASES_FILE, GENES_FILE, META_FILE
from scgeneformer._engine.vocabulary import read_vocabulary as read_ours
from scgeneformer.models._config import read_config as read_config
from scgeneformer.models._weights import read_tensors as read_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer._engine.vocabulary import Vocabulary

CONFIG_FILE = "config.json"
WEIGHT_FILES: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")  # the first that exists is read
VOCABULARY_FILES = (GENES_FILE, META_FILE, ALIASES_FILE)
VOCABULARY = f"{GENES_FILE} nor the reference's pickles ({KINDS[0]}*.pkl, {KINDS[1]}*.pkl)"


def has_genes(folder: Path) -> bool:
    """Whether `folder` holds a vocabulary in our own form."""
    return (folder / GENES_FILE).is_file()


def has_vocabulary(folder: Path) -> bool:
    """Whether `folder` holds a vocabulary, in our form or as the reference's pickles."""
    return has_genes(folder) or any(folder.glob(f"{KINDS[0]}*.pkl"))


def vocabulary_files(folder: Path) -> list[Path]:
    """The files of the vocabulary in `folder`."""
    ours = [path for name in VOCABULARY_FILES if (path := folder / name).exists()]
    return ours if has_genes(folder) else list(find_dictionaries(folder).values())


def read_vocabulary(folder: Path, config: Path) -> Vocabulary:
    """Read the vocabulary in `folder`; of pickles the input size is that of the model."""
    n_positions = read_config(config)["max_position_embeddings"]
    return read_ours(folder) if has_genes(folder) else vocabulary_from_dictionaries(folder, n_positions)


def find_weights(folder: Path) -> Path | None:
    """Return the weight file in `folder`, or None."""
    return next((path for name in WEIGHT_FILES if (path := folder / name).is_file()), None)
