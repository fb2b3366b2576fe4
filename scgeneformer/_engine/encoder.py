"""Run the blocks of a stock BERT over packed cells, as far as the deepest hidden layer that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scgeneformer._engine import attention
from scgeneformer._engine.linear import use_own_products
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import BertConfig, BertModel

    from scgeneformer._engine.packing import Packed


def hidden_states(bert: BertModel, packed: Packed, layers: Iterable[int]) -> dict[int, torch.Tensor]:
    """Hidden states of the given layers for every token of a packed batch.

    Parameters
    ----------
    bert
        The encoder; its attention must be `attention.NAME` (see :func:`use_own_kernels`).
    packed
        The batch.
    layers
        0 = embedding output, n = after block n. Blocks behind the largest are not run.

    Returns
    -------
    (total, d) tensor by layer, in the encoder's dtype.
    """
    wanted = set(layers)
    states = {}
    hidden = bert.embeddings(input_ids=packed.ids, position_ids=packed.positions)  # (1, total, d)
    if 0 in wanted:
        states[0] = hidden[0]
    for depth, block in enumerate(bert.encoder.layer[: max(wanted)], start=1):
        hidden = block(hidden, None, packed=packed)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden  # a tuple in transformers 4
        if depth in wanted:
            states[depth] = hidden[0]
    return states


def new_bert(config: BertConfig) -> BertModel:
    """Stock encoder of random weights with the kernels of this package.

    Where the config says ``embedding_norm=False``, which transformers does not know, the sum of the embeddings has no
    layer norm, as in scGPT.
    """
    from transformers import BertModel

    bert = BertModel(config, add_pooling_layer=False)
    if not getattr(config, "embedding_norm", True):
        bert.embeddings.LayerNorm = torch.nn.Identity()
    return use_own_kernels(bert)


def use_own_kernels(bert: BertModel) -> BertModel:
    """Let `bert` attend within the cells of packed batches, and multiply as :mod:`linear` does; returns it."""
    bert.config._attn_implementation = attention.NAME
    use_own_products(bert)
    return bert


def resolve_layer(layer: int, n_blocks: int) -> int:
    """Turn an index into the hidden states, possibly negative, into 0 .. n_blocks.

    Raises
    ------
    DataError
        If the model has no such layer.
    """
    whole = isinstance(layer, int | np.integer) and not isinstance(layer, bool)
    if not whole or not -n_blocks - 1 <= layer <= n_blocks:
        counts = " The layer of the AnnData that holds the counts is counts_layer=." if isinstance(layer, str) else ""
        raise DataError(
            f"layer={layer!r} does not exist: a model of {n_blocks} blocks has the hidden layers 0 (embedding output) "
            f"to {n_blocks} (last), or counted from the end -1 (last) to {-n_blocks - 1}.{counts}"
        )
    return int(layer) % (n_blocks + 1)
