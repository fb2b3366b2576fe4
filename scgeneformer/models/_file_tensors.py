"""All tensors of the file a model was read from, heads included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._errors import ModelError
from scgeneformer.models._checksum import sha256

if TYPE_CHECKING:
    import torch

    from scgeneformer.models._model import Model


def check_file(model: Model) -> None:
    """Refuse to go on if the weight file of a model is no longer what the model was read from."""
    path = model.files.weights  # type: ignore[union-attr]
    if not path.is_file() or sha256(path) != model.checksum:
        raise ModelError(f"{path} is gone or has changed since {model.name} was loaded from it. Load it again.")


def file_tensors(model: Model) -> dict[str, torch.Tensor]:
    """Tensors by name, views of the mapped file: copy what is to stay."""
    check_file(model)
    return model.files.layout.read_tensors(model.files.weights)  # type: ignore[union-attr]
