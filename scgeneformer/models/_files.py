"""The files that make up a model, wherever they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scgeneformer._errors import ModelError
from scgeneformer.models._checksum import Stamp, stamp
from scgeneformer.models._layouts import Layout, layout_of

if TYPE_CHECKING:
    from pathlib import Path


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
    layout
        How they are laid out.
    """

    name: str
    source: str
    revision: str
    folder: Path
    weights: Path
    vocabulary: Path
    layout: Layout

    @property
    def config(self) -> Path:
        """The config file."""
        return self.folder / self.layout.CONFIG_FILE

    def state(self) -> tuple[Stamp, ...]:
        """State of all files: another one means that the model must be read again."""
        return (stamp(self.config), stamp(self.weights), *vocabulary_state(self.layout, self.vocabulary))


def find_files(folder: Path, name: str, source: str, revision: str, vocabulary: Path) -> Files:
    """Find the files of the model in `folder`, whose vocabulary is in `vocabulary`."""
    layout = layout_of(folder)
    weights = next((path for file in layout.WEIGHT_FILES if (path := folder / file).is_file()), None)
    if weights is None:
        raise ModelError(f"{folder} has no weights: {_lack(' nor '.join(layout.WEIGHT_FILES))}.")
    return Files(name, source, revision, folder, weights, vocabulary, layout)


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
    layout = layout_of(folder)
    if dictionaries is not None and not layout.has_vocabulary(dictionaries):
        raise ModelError(f"dictionaries={str(dictionaries)!r} holds no vocabulary: {_lack(layout.VOCABULARY)}.")
    places = [dictionaries] if dictionaries is not None else [folder, fallback]
    found = next((place for place in places if place is not None and layout.has_vocabulary(place)), None)
    if found is None:
        raise ModelError(
            f"{folder} has no vocabulary beside its config: {_lack(layout.VOCABULARY)}. Name the folder that holds "
            "that of this model: dictionaries='...'."
        )
    return found


def vocabulary_state(layout: Layout, folder: Path) -> tuple[Stamp, ...]:
    """State of the files of a vocabulary."""
    return tuple(stamp(path) for path in layout.vocabulary_files(folder))


def _lack(names: str) -> str:
    """Say that one of several names is absent ("neither a nor b"), or the only one ("no a")."""
    return f"neither {names}" if " nor " in names else f"no {names}"
