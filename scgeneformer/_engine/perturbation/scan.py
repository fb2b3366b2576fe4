"""The exact scan: every perturbation of every cell is run through the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._engine.perturbation.collect import Collector
from scgeneformer._engine.perturbation.perturbed_cells import PerturbedCells
from scgeneformer._engine.perturbation.shifts import Shifts
from scgeneformer._engine.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from transformers import BertModel

    from scgeneformer._engine.perturbation.perturbed_cells import Block, Plan
    from scgeneformer._engine.perturbation.shifts import Asked
    from scgeneformer._engine.run import Consumer
    from scgeneformer._engine.vocabulary import Vocabulary


def scan(
    blocks: Iterable[Block],
    plan: Plan,
    vocabulary: Vocabulary,
    berts: list[BertModel],
    layers: list[int],
    tokens_per_batch: int,
    asked: Asked,
    done: Callable[[Block, dict[str, np.ndarray]], object],
    advance: Callable[[float, int], object] = lambda cells, perturbations: None,
) -> None:
    """Run all perturbations of `blocks`, and hand on the results of each block once it is complete.

    Parameters
    ----------
    blocks
        Of :func:`perturbed_cells.cut_blocks`.
    plan, vocabulary
        What is done to the cells, and how the model reads them.
    berts, layers, tokens_per_batch
        As in :func:`run.run`.
    asked
        What is measured.
    done, advance
        As in :class:`collect.Collector`.
    """
    n_states = len(next(iter(asked.goals.values()), ()))
    width = berts[0].config.hidden_size
    collector = Collector(layers, asked, width, n_states, vocabulary.n_tokens, done, advance)
    cells = PerturbedCells(blocks, plan, vocabulary, collector.begin, needs_others=asked.measure == "genes")
    consumers: list[list[Consumer]] = [[Shifts(cells, layers, asked, collector.add)] for _ in berts]
    run(cells, berts, layers, tokens_per_batch, consumers)
