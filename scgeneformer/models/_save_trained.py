"""Save a model that was trained here: encoder, head, vocabulary, what it tells, how it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scgeneformer._engine.vocabulary import write_vocabulary
from scgeneformer._json import to_json
from scgeneformer.models._geneformer import CONFIG_FILE
from scgeneformer.models._save import CARD_FILE, METRICS_FILE, write_tensors, written_beside

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from transformers import BertModel

    from scgeneformer._engine.vocabulary import Vocabulary


def save_trained(
    folder: Path,
    bert: BertModel,
    head: Mapping[str, torch.Tensor],
    vocabulary: Vocabulary,
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    card: str,
) -> None:
    """Write a directory that :func:`scgeneformer.models.load` takes, complete or not at all.

    Parameters
    ----------
    folder
        Where to; files of a model that are there are replaced.
    bert
        The encoder.
    head
        Tensors of the head by their names in the file.
    vocabulary
        Genes and special tokens, with the record of the training.
    config
        Entries of `config.json` beyond those of the encoder.
    metrics
        Written as `metrics.json`.
    card
        The model card, written as `README.md`.
    """
    encoder = {f"bert.{name}": tensor for name, tensor in bert.state_dict().items()}
    with written_beside(folder) as fresh:
        write_tensors({**encoder, **head}, fresh)
        entries = {**bert.config.to_dict(), **config}
        (fresh / CONFIG_FILE).write_text(to_json(entries), encoding="utf-8")
        (fresh / METRICS_FILE).write_text(to_json(metrics), encoding="utf-8")
        (fresh / CARD_FILE).write_text(card, encoding="utf-8")
        write_vocabulary(vocabulary, fresh)
