"""How far perturbations move cells: the hidden states of perturbed cells beside those of the unperturbed ones.

With unit vectors u, v the shift 1 − cos(u, v) is |u − v|² / 2, and cos(u, S) − cos(v, S) is (u − v)·S. Written so, the
difference is taken before anything is rounded, and small shifts keep their digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from scgeneformer._engine.packing import to_device
from scgeneformer._engine.perturbation.perturbed_cells import UNPERTURBED
from scgeneformer._engine.pooling import POOLINGS
from scgeneformer._engine.to_host import ToHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.perturbation.perturbed_cells import Job, PerturbedCells

MEASURES = {"genes": "mean", "mean": "mean", "cls": "cls"}  # measure -> pooling of the cell where one is needed


@dataclass(frozen=True, eq=False)
class Asked:
    """What is measured of every perturbation.

    Parameters
    ----------
    measure
        "genes": 1 − mean over the shared genes of the cosine of each before and after; "cls" and "mean": 1 − cosine of
        the cell's ``<cls>`` state, or of the mean over its genes.
    goals
        Embeddings of states, (n_states, d) by layer: also cos(after, state) − cos(before, state).
    vectors
        Also the cell's embedding after minus that before.
    effects
        Also the shift of each shared gene.
    """

    measure: str
    goals: dict[int, np.ndarray] = field(default_factory=dict)
    vectors: bool = False
    effects: bool = False

    @property
    def pooled(self) -> bool:
        """Whether embeddings of the cells are needed."""
        return self.measure != "genes" or bool(self.goals) or self.vectors

    @property
    def genewise(self) -> bool:
        """Whether the states of single genes are needed."""
        return self.measure == "genes" or self.effects


class Shifts(ToHost):
    """Consumer that compares every perturbed cell with its unperturbed one.

    Parameters
    ----------
    cells
        Tell which sequence is what.
    layers
        Hidden layers, counted from 0.
    asked
        What is measured.
    found
        Takes the results of some jobs: the jobs, and for each layer the arrays "shift_L<n>" (n_jobs,), "toward_L<n>"
        (n_jobs, n_states), "vector_L<n>" (n_jobs, d), "gene_L<n>" (shifts of the shared genes, job behind job).
    """

    def __init__(
        self,
        cells: PerturbedCells,
        layers: list[int],
        asked: Asked,
        found: Callable[[list[Job], dict[str, np.ndarray]], object],
    ) -> None:
        super().__init__()
        self.cells, self.layers, self.asked, self.found = cells, layers, asked, found
        self.pooling = POOLINGS[MEASURES[asked.measure]]
        self.genes_before: dict[int, torch.Tensor] = {}  # of the last unperturbed cell, (n_tokens, d) by layer
        self.cell_before: dict[int, torch.Tensor] = {}  # its embedding, (1, d) by layer
        self.goals: dict[int, torch.Tensor] = {}

    def select(self, batch: Batch) -> tuple[list[Job], dict[Any, torch.Tensor]]:
        """Compare the perturbed cells of the batch."""
        jobs = self.cells.take(batch.cells)
        n_genes_kept = len(next(iter(self.genes_before.values()), ()))
        pairs = _Pairs(jobs, batch, n_genes_kept, len(self.cell_before) and 1, self.cells.vocabulary.n_lead)
        results: dict[Any, torch.Tensor] = {}
        for layer in self.layers:
            states = batch.states[layer]
            if self.asked.genewise:
                results |= self._compare_genes(layer, states, pairs)
            if self.asked.pooled:
                results |= self._compare_cells(layer, self.pooling(states, batch.packed, self.cells.vocabulary), pairs)
        return [jobs[i] for i in pairs.perturbed], results

    def store(self, place: list[Job], rows: dict[Any, np.ndarray]) -> None:
        """Hand the results on."""
        if place:
            self.found(place, rows)

    def _compare_genes(self, layer: int, states: torch.Tensor, pairs: _Pairs) -> dict[str, torch.Tensor]:
        unit = normalize(states.float(), dim=1)  # (total, d)
        before = self.genes_before.get(layer)
        known = unit if before is None else torch.cat([before, unit])
        if pairs.last_genes is not None:
            self.genes_before[layer] = known[pairs.last_genes].clone()  # not a view, which would keep all of it alive
        after, reference = unit[pairs.gene_after], known[pairs.gene_before]  # (pairs, d)
        shift = (after - reference).square_().sum(dim=1).double() / 2
        results = {f"gene_L{layer}": shift} if self.asked.effects else {}
        if self.asked.measure == "genes":
            sums = torch.zeros(len(pairs.perturbed), dtype=shift.dtype, device=shift.device)
            sums.index_add_(0, pairs.owner, shift)
            results[f"shift_L{layer}"] = sums / pairs.n_shared
        return results

    def _compare_cells(self, layer: int, cells: torch.Tensor, pairs: _Pairs) -> dict[str, torch.Tensor]:
        before = self.cell_before.get(layer)
        known = cells if before is None else torch.cat([before, cells])
        self.cell_before[layer] = known[pairs.last_cell : pairs.last_cell + 1].clone()
        after, reference = cells[pairs.cell_after], known[pairs.cell_before]  # (n_jobs, d)
        difference = normalize(after, dim=1) - normalize(reference, dim=1)
        results: dict[str, torch.Tensor] = {}
        if self.asked.measure != "genes":
            results[f"shift_L{layer}"] = difference.square().sum(dim=1) / 2
        if self.asked.goals:
            if layer not in self.goals:
                self.goals[layer] = normalize(to_device(self.asked.goals[layer], cells.device).float(), dim=1)
            results[f"toward_L{layer}"] = difference @ self.goals[layer].T
        if self.asked.vectors:
            results[f"vector_L{layer}"] = after - reference
        return results


class _Pairs:
    """Which rows of a batch are compared with which rows of [the last unperturbed cell, the batch], found on the host.

    Parameters
    ----------
    jobs
        What each sequence of the batch is.
    batch
        The batch.
    n_genes_kept, n_cells_kept
        Tokens, and cells (0 or 1), that are kept from the batch before.
    lead
        Special tokens in front of the genes.
    """

    def __init__(self, jobs: list[Job], batch: Batch, n_genes_kept: int, n_cells_kept: int, lead: int) -> None:
        starts = batch.tokens.offsets.tolist()
        genes_from, self.last_cell = 0, 0  # the unperturbed cell, among [kept, batch]
        self.last_genes: slice | None = None
        self.perturbed: list[int] = []
        none = np.empty(0, dtype=np.int64)
        after, before, cells = [none], [none], []
        for i, job in enumerate(jobs):
            if job.column == UNPERTURBED:
                genes_from, self.last_cell = n_genes_kept + starts[i], n_cells_kept + i
                self.last_genes = slice(genes_from, n_genes_kept + starts[i + 1])
                continue
            self.perturbed.append(i)
            cells.append(self.last_cell)
            after.append(job.edited.shared + (starts[i] + lead))
            before.append(job.edited.origin[job.edited.shared] + (genes_from + lead))
        n_shared = np.array([len(part) for part in after[1:]], dtype=np.int64)
        owner = np.repeat(np.arange(len(n_shared)), n_shared)
        cell_after = np.array(self.perturbed, dtype=np.int64)
        arrays = (np.concatenate(after), np.concatenate(before), owner, n_shared, cell_after, np.array(cells, np.int64))
        on_device = (to_device(array, batch.packed.ids.device) for array in arrays)
        self.gene_after, self.gene_before, self.owner, self.n_shared, self.cell_after, self.cell_before = on_device
