"""From files on disk, or from another copy in memory, to a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scgeneformer.models._checksum import sha256
from scgeneformer.models._config import bert_config
from scgeneformer.models._model import Model
from scgeneformer.models._vocabulary import get_vocabulary
from scgeneformer.models._weights import build_bert

if TYPE_CHECKING:
    import torch

    from scgeneformer.models._files import Files


def read_model(files: Files, device: torch.device, dtype: torch.dtype) -> Model:
    """Read a model from disk; vocabulary, config and weights are checked against each other."""
    vocabulary = get_vocabulary(files.vocabulary, files.config)
    config = bert_config(files.layout.read_config(files.config), files.config)
    return Model(
        name=files.name,
        source=files.source,
        revision=files.revision,
        checksum=sha256(files.weights),
        vocabulary=vocabulary,
        bert=build_bert(config, files.layout.read_tensors(files.weights), device, dtype, str(files.weights)),
        device=device,
        dtype=dtype,
        folder=files.folder,
        files=files,
    )


def convert(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    """Copy a model that is in memory to another device or dtype; all but the weights is shared."""
    bert = build_bert(model.bert.config, model.bert.state_dict(), device, dtype, model.name)
    return replace(model, bert=bert, device=device, dtype=dtype)
