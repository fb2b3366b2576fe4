"""The contextual embeddings of a few genes in every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._engine.gene_sums import tokens_of_genes
from scgeneformer._engine.packing import to_device
from scgeneformer._engine.to_host import ToHost

if TYPE_CHECKING:
    import torch

    from scgeneformer._engine.forward import Batch


class GeneStates(ToHost):
    """Consumer that keeps the hidden states of some genes, cell by cell.

    Parameters
    ----------
    found
        (n_cells, n_genes, d) float32 by layer, filled in place; entries of genes that a cell lacks stay as they are.
    slot_of_token
        Place of a token among the genes, (n_tokens,) int64; -1 for those nobody asked for.
    """

    def __init__(self, found: dict[int, np.ndarray], slot_of_token: np.ndarray) -> None:
        super().__init__()
        self.found, self.slot_of_token = found, slot_of_token
        self.row_of_cell = np.arange(len(next(iter(found.values()))))

    def select(self, batch: Batch) -> tuple[tuple[np.ndarray, np.ndarray], dict[int, torch.Tensor]]:
        """The states of these genes, with row and slot of each."""
        kept, row, slot = tokens_of_genes(batch, self.row_of_cell, self.slot_of_token)
        rows = to_device(kept, batch.packed.ids.device)
        return (row, slot), {n: batch.states[n][rows].float() for n in self.found}

    def store(self, place: tuple[np.ndarray, np.ndarray], rows: dict[int, np.ndarray]) -> None:
        """Put them in their places."""
        for layer, values in rows.items():
            self.found[layer][place] = values
