"""Gather the results of perturbations block by block, as they come from one device or from several."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgeneformer._engine.perturbation.perturbed_cells import Block, Job
    from scgeneformer._engine.perturbation.shifts import Asked


class Collector:
    """Hands on the results of every block once it is complete.

    Parameters
    ----------
    layers, asked
        As in :class:`shifts.Shifts`.
    width, n_states, n_tokens
        Of the hidden states, of the goals, and of the vocabulary.
    done
        Takes a block and its results: "cell", "column" (n,) int64 and "rank" (n,) int32, and for each layer those of
        :class:`shifts.Shifts`, where "gene_L<n>" is summed over cells to four arrays: "pair_L<n>" (column * n_tokens +
        token of the responding gene, ascending), "sum_L<n>", "square_L<n>" (of the squares) and "n_L<n>" (cells).
    advance
        Called with the cells that were finished, parts of cells included, and the number of perturbations.
    """

    def __init__(
        self,
        layers: list[int],
        asked: Asked,
        width: int,
        n_states: int,
        n_tokens: int,
        done: Callable[[Block, dict[str, np.ndarray]], object],
        advance: Callable[[float, int], object],
    ) -> None:
        self.layers, self.asked, self.n_tokens, self.done, self.advance = layers, asked, n_tokens, done, advance
        shapes: dict[str, tuple[int, ...]] = {"shift": ()}
        shapes |= {"toward": (n_states,)} if asked.goals else {}
        shapes |= {"vector": (width,)} if asked.vectors else {}
        self.shapes = {f"{name}_L{n}": shape for n in layers for name, shape in shapes.items()}
        self._open: dict[int, _Open] = {}
        self._lock = threading.Lock()

    def begin(self, block: Block, n_jobs: int, unchanged: list[Job]) -> None:
        """Expect `n_jobs` results of a block, beside those that are zero."""
        self._open[block.number] = _Open(block, n_jobs)
        zeros: dict[str, np.ndarray] = {
            name: np.zeros((len(unchanged), *shape), dtype=np.float32) for name, shape in self.shapes.items()
        }
        n_shared = sum(len(job.edited.shared) for job in unchanged)
        if self.asked.effects:
            zeros |= {f"gene_L{n}": np.zeros(n_shared) for n in self.layers}
        self._open[block.number].waiting += len(unchanged)
        self._add(block.number, unchanged, zeros)

    def add(self, jobs: list[Job], rows: dict[str, np.ndarray]) -> None:
        """Take the results of some jobs of one block."""
        self._add(jobs[0].block, jobs, rows)

    def _add(self, number: int, jobs: list[Job], rows: dict[str, np.ndarray]) -> None:
        one = self._open[number]
        one.jobs += jobs
        one.rows.append(rows)
        one.waiting -= len(jobs)
        cells = sum(one.share[job.cell] for job in jobs)
        one.cells -= cells
        with self._lock:  # devices work in threads
            self.advance(cells, len(jobs))
            if not one.waiting:
                del self._open[number]
                self.advance(one.cells, 0)  # of perturbations that do not apply
                self.done(one.block, self._results(one))

    def _results(self, one: _Open) -> dict[str, np.ndarray]:
        results: dict[str, np.ndarray] = {
            "cell": np.array([job.cell for job in one.jobs], dtype=np.int64),
            "column": np.array([job.column for job in one.jobs], dtype=np.int64),
            "rank": np.array([job.rank for job in one.jobs], dtype=np.int32),
        }
        for name in self.shapes:
            results[name] = np.concatenate([rows[name] for rows in one.rows]).astype(np.float32)
        if self.asked.effects:
            responding = [job.edited.ids[job.edited.shared].astype(np.int64) for job in one.jobs]
            pairs = [job.column * self.n_tokens + tokens for job, tokens in zip(one.jobs, responding, strict=True)]
            pair = np.concatenate([np.empty(0, dtype=np.int64), *pairs])
            unique, place, n_cells = np.unique(pair, return_inverse=True, return_counts=True)
            for n in self.layers:
                shift = np.concatenate([rows[f"gene_L{n}"] for rows in one.rows])
                results[f"pair_L{n}"], results[f"n_L{n}"] = unique, n_cells
                results[f"sum_L{n}"] = np.bincount(place, shift, len(unique))
                results[f"square_L{n}"] = np.bincount(place, shift**2, len(unique))
        return results


class _Open:
    """A block whose results are not all there."""

    def __init__(self, block: Block, waiting: int) -> None:
        self.block, self.waiting = block, waiting
        self.jobs: list[Job] = []
        self.rows: list[dict[str, np.ndarray]] = []
        self.share = {part.cell: 1 / part.n_columns for part in block.parts}  # of a cell, for each perturbation
        self.cells = block.n_cells
