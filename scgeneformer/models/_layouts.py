"""The ways in which the files of a model can be laid out, each a module of its own, told apart by their config file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from scgeneformer._errors import ModelError
from scgeneformer.models import _geneformer, _scgpt

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from scgeneformer._engine.vocabulary import Vocabulary


class Layout(Protocol):
    """What a module that knows a layout provides."""

    CONFIG_FILE: str
    """A directory that holds a file of this name is laid out so."""
    WEIGHT_FILES: tuple[str, ...]
    """Names of the weight file; the first that exists is read."""
    VOCABULARY: str
    """What the vocabulary is, for the error if it is absent ("neither ... nor ..." or "no ...")."""

    def has_vocabulary(self, folder: Path) -> bool:
        """Whether `folder` holds a vocabulary."""

    def vocabulary_files(self, folder: Path) -> list[Path]:
        """The files of the vocabulary in `folder`."""

    def read_vocabulary(self, folder: Path, config: Path) -> Vocabulary:
        """Read the vocabulary in `folder` for the model of a config file."""

    def read_config(self, path: Path) -> dict:
        """Entries of the config of a stock BERT, from the config file."""

    def read_tensors(self, path: Path) -> dict[str, torch.Tensor]:
        """Tensors by the names of a stock BERT, from the weight file; executes nothing that is in it."""


LAYOUTS: tuple[Layout, ...] = (_geneformer, _scgpt)


def layout_of(folder: Path) -> Layout:
    """Return how the model in `folder` is laid out.

    Raises
    ------
    ModelError
        If it is no model directory.
    """
    for layout in LAYOUTS:
        if (folder / layout.CONFIG_FILE).is_file():
            return layout
    names = f"{_geneformer.CONFIG_FILE} (or, of scGPT, {_scgpt.CONFIG_FILE})"
    raise ModelError(f"{folder} is not a model directory: it has no {names}.")
