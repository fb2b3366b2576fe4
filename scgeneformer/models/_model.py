"""A model in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import BertModel

    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer.models._files import Files


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A Geneformer encoder with its vocabulary, shared by all calls that use it: never change it in place.

    Parameters
    ----------
    name
        Registry name, place on the hub, or name of the directory.
    source
        Repository on the hub, or directory.
    revision
        Commit on the hub; empty for a directory.
    checksum
        SHA-256 of the weight file.
    vocabulary
        Genes and special tokens.
    bert
        The encoder: no pooler, no gradients, attention within the cells of packed batches.
    device, dtype
        Where its weights are, and as which numbers.
    folder
        Directory of its config and weights, from which a head can be loaded.
    files
        The files it was read from; None for a model built by hand.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.models.load("mini", device="cpu")
    Model mini: 6 blocks, width 128, 3,366,016 parameters, 18,033 genes, float32 on cpu
    """

    name: str
    source: str
    revision: str
    checksum: str
    vocabulary: Vocabulary
    bert: BertModel
    device: torch.device
    dtype: torch.dtype
    folder: Path
    files: Files | None = None

    @property
    def n_blocks(self) -> int:
        """Number of transformer blocks; the hidden layers are 0 to `n_blocks`."""
        return self.bert.config.num_hidden_layers

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.bert.config.hidden_size

    @property
    def n_parameters(self) -> int:
        """Number of weights of the encoder, without any head."""
        return sum(parameter.numel() for parameter in self.bert.parameters())

    @property
    def n_bytes(self) -> int:
        """Memory its weights take."""
        return self.n_parameters * self.dtype.itemsize

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"Model {self.name}: {self.n_blocks} blocks, width {self.width}, {self.n_parameters:,} parameters, "
            f"{len(self.vocabulary.tokens):,} genes, {dtype} on {self.device}"
        )


ModelLike: TypeAlias = str | os.PathLike[str] | Model
"""Registry name, local directory, ``org/repo[/subfolder][@revision]``, or a loaded model."""
