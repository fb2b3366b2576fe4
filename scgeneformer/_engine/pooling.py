"""Pool the hidden states of the tokens of each cell into one vector per cell, accumulated in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scgeneformer._checks import check_choice
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgeneformer._engine.packing import Packed
    from scgeneformer._engine.vocabulary import Vocabulary

    Pooling = Callable[[torch.Tensor, Packed, Vocabulary], torch.Tensor]


def pool_mean(states: torch.Tensor, packed: Packed, vocabulary: Vocabulary) -> torch.Tensor:
    """Mean over the genes of each cell, at both time points where there are two, special tokens left out.

    The reference averages over all tokens of a cell (V1, which has no special tokens), or over all but ``<cls>`` and
    ``<eos>`` (V2): `emb_extractor.get_embs` with ``emb_mode="cell"``.
    """
    lead, trail = vocabulary.n_lead, vocabulary.n_trail
    n_genes = torch.tensor([n - vocabulary.n_special for n in packed.lengths])
    between = n_genes + (vocabulary.n_special - lead - trail)
    segments = torch.stack([torch.full_like(n_genes, lead), between, torch.full_like(n_genes, trail)], dim=1)
    segments = segments.flatten().to(states.device, non_blocking=True)
    if vocabulary.sep_token is not None:
        states = states.masked_fill((packed.ids[0] == vocabulary.sep_token)[:, None], 0)
    sums = torch.segment_reduce(states.float(), "sum", lengths=segments, unsafe=True)[1::3]  # (n_cells, d)
    return sums / n_genes.to(states.device, non_blocking=True)[:, None]


def pool_first(states: torch.Tensor, packed: Packed, vocabulary: Vocabulary) -> torch.Tensor:
    """State of the first token of each cell: ``<cls>`` where the model has one, else the gene of highest rank.

    On ``<cls>`` it is that of the reference with ``emb_mode="cls"``.
    """
    return states[packed.offsets[:-1].long()].float()


POOLINGS: dict[str, Pooling] = {"mean": pool_mean, "cls": pool_first, "first": pool_first}


def get_pooling(name: str, vocabulary: Vocabulary) -> Pooling:
    """Pooling by name.

    Raises
    ------
    DataError
        If there is none of that name, or it needs a ``<cls>`` token the model does not have.
    """
    check_choice(POOLINGS, pooling=name)
    if name == "cls" and vocabulary.cls_token is None:
        raise DataError("pooling='cls' needs a model with a <cls> token, and this one has none. Use pooling='mean'.")
    return POOLINGS[name]
