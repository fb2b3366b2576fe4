"""What pretraining starts from: nothing but a vocabulary, a pretrained model, or one with another vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanpy import logging as logg

from scgeneformer._errors import ModelError
from scgeneformer.models._head import load_head
from scgeneformer.models._model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scgeneformer._engine.masked_head import MaskedHead
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.masked_values import ValueHead


def without_weights(vocabulary: Vocabulary, changes: Mapping[str, Any] | None) -> Model:
    """A model that is nothing but a config; its weights are to be drawn.

    Parameters
    ----------
    vocabulary
        Its genes.
    changes
        Entries of the config that will take the place of the default; the width decides other defaults.
    """
    import torch
    from transformers import BertModel

    from scgeneformer._training.encoder import default_config

    width = (changes or {}).get("hidden_size")
    config = default_config(vocabulary, **({"hidden_size": width} if isinstance(width, int) and width > 0 else {}))
    with torch.device("meta"):
        bert = BertModel(config, add_pooling_layer=False)
    return Model("Geneformer", "", "", "", vocabulary, bert, torch.device("cpu"), torch.float32, Path())


def with_head(
    model: Model, vocabulary: Vocabulary | None, orthologs: Any
) -> tuple[Model, MaskedHead | ValueHead | None]:
    """A pretrained model and its head.

    Parameters
    ----------
    model
        The model, float32 on the CPU.
    vocabulary
        Genes it is to know; None leaves its own. What came from where is logged, see `transfer.py`.
    orthologs
        Gene of the vocabulary -> gene of the model, or None.

    Returns
    -------
    The model, with the vocabulary, and the head; None if a model of value bins has none, as those of scGPT.
    """
    from scgeneformer._training.transfer import find_transfer, transferred

    if model.vocabulary.encoding.n_positions is not None:
        return _with_value_head(model, vocabulary)
    if vocabulary is not None and vocabulary.encoding.n_positions is not None:
        raise ModelError(
            f"The vocabulary reads {vocabulary.encoding.name!r}, in which positions are bins, and those that "
            f"{model.name} learned are ranks. Train from scratch: leave model= out."
        )
    if not getattr(model.bert.config, "tie_word_embeddings", True):
        raise ModelError(
            f"The decoder of {model.name} is not tied to its embeddings (tie_word_embeddings). gf.tl.pretrain trains "
            "tied ones only, as all published models are."
        )
    if vocabulary is None:
        return model, load_head(model)
    transfer = find_transfer(vocabulary, model.vocabulary, orthologs)
    bert, head = transferred(model.bert, load_head(model), transfer, vocabulary.special.get("<pad>", 0))
    counts = f"{transfer.n_same:,} genes of {model.name} keep their rows"
    if transfer.n_orthologs:
        counts += f", {transfer.n_orthologs:,} genes begin with those of orthologs"
    if transfer.n_new:
        counts += f", {transfer.n_new:,} with the mean of all genes"
    if transfer.n_left:
        counts += f"; {transfer.n_left:,} genes of {model.name} are not in the vocabulary"
    logg.info(f"    {counts}")
    return replace(model, bert=bert, vocabulary=vocabulary), head


def _with_value_head(model: Model, vocabulary: Vocabulary | None) -> tuple[Model, ValueHead | None]:
    from scgeneformer._training.masked_values import PREFIX, ValueHead
    from scgeneformer.models._file_tensors import file_tensors

    if vocabulary is not None and vocabulary.checksum != model.vocabulary.checksum:
        raise ModelError(
            f"{model.name} reads value bins, and other genes can be given to models of ranks only. Leave vocabulary= "
            "or model= out."
        )
    tensors = {} if model.files is None else file_tensors(model)
    return model, ValueHead.of(model.bert.config, tensors) if f"{PREFIX}bins.bias" in tensors else None
