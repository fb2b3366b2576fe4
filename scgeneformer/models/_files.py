"""The files that make up a model, wherever they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scgeneformer._engine.dictionaries import KINDS, find_dictionaries
from scgeneformer._engine.vocabulary import ALIASES_FILE, GENES_FILE, META_FILE
from scgeneformer._errors import ModelError
from scgeneformer.models._checksum import Stamp, stamp

if TYPE_CHECKING:
    from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that exists is read
VOCABULARY_FILES = (GENES_FILE, META_FILE, ALIASES_FILE)


@dataclass(frozen=True)
class Files:
    """One model on disk.

    Parameters
    ----------
    name, source, revision
        As in :class:`~scgeneformer.models.Model`.
    folder
        Directory of config and weights.
    weights
        The weight file.
    vocabulary
        Directory of the vocabulary.
    """

    name: str
    source: str
    revision: str
    folder: Path
    weights: Path
    vocabulary: Path

    @property
    def config(self) -> Path:
        """The config file."""
        return self.folder / CONFIG_FILE

    def state(self) -> tuple[Stamp, ...]:
        """State of all files: another one means that the model must be read again."""
        return (stamp(self.config), stamp(self.weights), *vocabulary_state(self.vocabulary))


def has_genes(folder: Path) -> bool:
    """Whether `folder` holds a vocabulary in our own form."""
    return (folder / GENES_FILE).is_file()


def has_vocabulary(folder: Path) -> bool:
    """Whether `folder` holds a vocabulary, in our form or as the reference's pickles."""
    return has_genes(folder) or any(folder.glob(f"{KINDS[0]}*.pkl"))


def find_weights(folder: Path) -> Path | None:
    """Return the weight file in `folder`, or None."""
    return next((path for name in WEIGHT_FILES if (path := folder / name).is_file()), None)


def find_files(folder: Path, name: str, source: str, revision: str, vocabulary: Path) -> Files:
    """Find the files of the model in `folder`, whose vocabulary is in `vocabulary`."""
    check_config(folder)
    if (weights := find_weights(folder)) is None:
        raise ModelError(f"{folder} has no weights: neither {' nor '.join(WEIGHT_FILES)}.")
    return Files(name, source, revision, folder, weights, vocabulary)


def check_config(folder: Path) -> None:
    """Refuse a folder that is no model directory."""
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"{folder} is not a model directory: it has no {CONFIG_FILE}.")


def find_vocabulary(folder: Path, dictionaries: Path | None, fallback: Path | None) -> Path:
    """Find the directory of the vocabulary of the model in `folder`.

    Parameters
    ----------
    folder
        Directory of config and weights.
    dictionaries
        Directory of the vocabulary, if the user named one.
    fallback
        Where it is if not in `folder`.
    """
    check_config(folder)
    if dictionaries is not None and not has_vocabulary(dictionaries):
        raise ModelError(
            f"dictionaries={str(dictionaries)!r} holds no vocabulary: neither {KINDS[0]}*.pkl nor {GENES_FILE}."
        )
    places = [dictionaries] if dictionaries is not None else [folder, fallback]
    found = next((place for place in places if place is not None and has_vocabulary(place)), None)
    if found is None:
        raise ModelError(
            f"{folder} has no vocabulary beside its config: neither {GENES_FILE} nor the reference's pickles "
            f"({KINDS[0]}*.pkl, {KINDS[1]}*.pkl). Name the folder that holds those of this model: dictionaries=..."
        )
    return found


def vocabulary_state(folder: Path) -> tuple[Stamp, ...]:
    """State of the files of a vocabulary."""
    ours = [path for name in VOCABULARY_FILES if (path := folder / name).exists()]
    return tuple(stamp(path) for path in (ours if has_genes(folder) else find_dictionaries(folder).values()))
