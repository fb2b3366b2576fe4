"""The head that predicts masked genes, read from a model's weight file when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from scgeneformer._errors import ModelError
from scgeneformer.models._file_tensors import file_tensors

if TYPE_CHECKING:
    import torch

    from scgeneformer._engine.masked_head import MaskedHead
    from scgeneformer.models._model import Model

_heads: WeakKeyDictionary[Model, MaskedHead] = WeakKeyDictionary()  # a head goes when its model does


def load_head(model: Model) -> MaskedHead:
    """Return the head of a model that predicts masked genes, in the model's dtype; read once.

    Raises
    ------
    ModelError
        If the model was not trained to predict masked genes, was built by hand, or its file has changed.
    """
    from scgeneformer._engine.masked_head import MaskedHead

    if (head := _heads.get(model)) is None:
        head = _heads[model] = MaskedHead.of(model.bert.config, _read(model))
    return head


def _read(model: Model) -> dict[str, torch.Tensor]:
    from scgeneformer._engine.masked_head import NAMES, PREFIX

    remedy = "Take a model that was pretrained to predict masked genes, from its files"
    if model.files is None:
        raise ModelError(f"{model.name} was built in memory, without a head. {remedy}.")
    if "<mask>" not in model.vocabulary.special:
        raise ModelError(f"The vocabulary of {model.name} has no token <mask>. {remedy}.")
    there = file_tensors(model)
    names = dict(NAMES)
    if not getattr(model.bert.config, "tie_word_embeddings", True):
        names |= {"decoder": "decoder.weight", "bias": "decoder.bias"}
    elif f"{PREFIX}bias" not in there:  # the two are one, and some versions of transformers kept this name
        names["bias"] = "decoder.bias"
    if missing := [name for name in names.values() if PREFIX + name not in there]:
        raise ModelError(
            f"{model.files.weights} has no head for masked genes: {PREFIX}{missing[0]} is missing. {remedy}."
        )
    found = {own: there[PREFIX + name].detach() for own, name in names.items()}
    _check(found, model)
    return {name: tensor.to(device=model.device, dtype=model.dtype, copy=True) for name, tensor in found.items()}


def _check(found: dict[str, torch.Tensor], model: Model) -> None:
    d, n = model.width, model.bert.config.vocab_size
    shapes = {"dense.weight": (d, d), "bias": (n,), "decoder": (n, d)}
    for name, tensor in found.items():
        if tensor.shape != (expected := shapes.get(name, (d,))):
            raise ModelError(
                f"The head of {model.name} does not fit its config: {name} is {tuple(tensor.shape)}, not {expected}."
            )
