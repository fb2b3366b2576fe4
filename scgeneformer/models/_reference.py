"""Name a model for another process, which reads it there: its weights are never sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from scgeneformer._engine.device import resolve_device, resolve_dtype
from scgeneformer._errors import ModelError
from scgeneformer.models import _registry
from scgeneformer.models._cache import get_or_read
from scgeneformer.models._load import load
from scgeneformer.models._locate import locate

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer.models._files import Files
    from scgeneformer.models._model import Model

UNNAMED = (
    "was built in this process and is in no directory from which others could read it. Save it, and give the "
    "directory: gf.models.save(model, 'folder') and model='folder'."
)


@dataclass(frozen=True)
class Reference:
    """How a process finds a model.

    Parameters
    ----------
    name
        Registry name, place on the hub with its commit, or directory.
    dictionaries
        Directory of the vocabulary, where it is not the one that the name leads to.
    checksum
        SHA-256 of the weight file.
    """

    name: str
    dictionaries: str | None
    checksum: str

    def load(self, device: str, dtype: str) -> Model:
        """Read the model, once per process.

        Raises
        ------
        ModelError
            If what the name leads to there is another model; and as :func:`load` does.
        """
        on = resolve_device(device)
        model = get_or_read(locate(self.name, self.dictionaries), on, resolve_dtype(dtype, on))
        if model.checksum != self.checksum:
            raise ModelError(
                f"model={self.name!r} is another one on this worker: the SHA-256 of its weights is {model.checksum}, "
                f"not {self.checksum}. Give all workers the same files."
            )
        return model


@dataclass(frozen=True, eq=False)
class Unnamed:
    """A model that only this process has; threads can use it, other processes cannot."""

    model: Model

    def load(self, device: str, dtype: str) -> Model:
        """The model, or its twin on another device or in another dtype."""
        return load(self.model, device=device, dtype=dtype)

    def __reduce__(self) -> NoReturn:
        """Refuse to be sent to another process."""
        raise ModelError(f"The model {self.model.name!r} {UNNAMED}")


def refer_to(model: Model) -> Reference | Unnamed:
    """Name a loaded model for other processes."""
    if model.files is None:
        return Unnamed(model)
    name = _name_of(model.files)
    return Reference(name, _dictionaries(name, model.files.vocabulary), model.checksum)


def _name_of(files: Files) -> str:
    entry = _registry.entries().get(files.name)
    if entry is not None and (files.folder == entry.folder if entry.folder else files.source == entry.repo):
        return entry.name
    return f"{files.name}@{files.revision}" if files.revision else str(files.folder.resolve())


def _dictionaries(name: str, vocabulary: Path) -> str | None:
    """The directory of the vocabulary, unless the name alone leads there."""
    try:
        usual = locate(name).vocabulary.resolve()
    except ModelError:  # there is none beside the weights
        usual = None
    return None if vocabulary.resolve() == usual else str(vocabulary.resolve())
