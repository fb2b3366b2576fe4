"""The screened scan: all perturbations of a cell are estimated, the leading ones confirmed by the exact scan."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch.nn.functional import normalize

from scgeneformer._engine.packing import to_device
from scgeneformer._engine.perturbation.perturbed_cells import blocks_of
from scgeneformer._engine.perturbation.scan import scan
from scgeneformer._engine.perturbation.screen import screen_cell
from scgeneformer._engine.run import share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import BertModel

    from scgeneformer._engine.perturbation.perturbed_cells import Block, Part, Plan
    from scgeneformer._engine.perturbation.shifts import Asked
    from scgeneformer._engine.vocabulary import Vocabulary

EXACT_BELOW = 128  # genes of a cell for which the scan costs no more than the estimate


def screened_scan(
    blocks: Iterable[Block],
    plan: Plan,
    vocabulary: Vocabulary,
    berts: list[BertModel],
    layers: list[int],
    tokens_per_batch: int,
    asked: Asked,
    done: Callable[[Block, dict[str, np.ndarray]], object],
    advance: Callable[[float, int], object] = lambda cells, perturbations: None,
    *,
    n_exact: int,
    seed: int = 0,
) -> None:
    """Estimate all perturbations of single genes, and run the leading ones of each cell exactly.

    Parameters
    ----------
    blocks, plan, vocabulary, berts, layers, tokens_per_batch, asked, done, advance
        As in :func:`scan.scan`, but no cell may be split between blocks. The results have "exact" (n,) bool beside.
    n_exact
        Perturbations of each cell that are run exactly: those of the largest estimated shift or, with goals, the
        largest estimated shift towards any of the states; of the first of the layers. Genes that enter a cell are all
        run exactly in addition: they move it by so nearly the same that an estimate does not tell them apart.
    seed
        Of the estimate.
    """
    lock = threading.Lock()

    def work(bert: BertModel, source: Iterable[Block], stop: threading.Event) -> None:
        for block in source:
            estimates = [_estimate(bert, part, plan, vocabulary, layers, asked, seed) for part in block.parts]
            again = [
                part._replace(columns=_leading(part, rows, layers[0], n_exact))
                for part, rows in zip(block.parts, estimates, strict=True)
            ]
            exact: list[dict[str, np.ndarray]] = []
            passed = ([bert], layers, tokens_per_batch, asked)
            scan(blocks_of(again, vocabulary), plan, vocabulary, *passed, partial(_keep, exact))
            with lock:
                done(block, _merge(block, estimates, exact))
                advance(block.n_cells, sum(len(part.columns) for part in block.parts))
            if stop.is_set():
                return

    share(blocks, [partial(work, bert) for bert in berts])


def _keep(kept: list[dict[str, np.ndarray]], block: Block, results: dict[str, np.ndarray]) -> None:
    kept.append(results)


def _estimate(
    bert: BertModel, part: Part, plan: Plan, vocabulary: Vocabulary, layers: list[int], asked: Asked, seed: int
) -> dict[str, np.ndarray]:
    """Estimated results of the perturbations of one cell, NaN for genes that enter; nothing for short cells."""
    genes = part.ids[: vocabulary.max_genes]
    present = np.isin(part.columns, genes)
    if len(genes) < EXACT_BELOW or not present.any():
        return {}
    lead = [vocabulary.cls_token] if vocabulary.n_lead else []
    trail = [vocabulary.eos_token] if vocabulary.n_trail else []
    ids = np.concatenate([lead, genes, trail]).astype(np.int64)
    found: dict[str, np.ndarray] = {}
    for n in layers:
        goals = None
        if asked.goals:
            goals = normalize(to_device(asked.goals[n].astype(np.float64), bert.device), dim=1)
        shift, toward = screen_cell(
            bert,
            ids,
            layer=n,
            mode=plan.mode,
            targets=part.columns[present],
            n_lead=len(lead),
            n_trail=len(trail),
            hold=plan.hold,
            measure=asked.measure,
            seed=seed,
            goals=goals,
        )
        of_layer = {f"shift_L{n}": shift} | ({f"toward_L{n}": toward.T} if asked.goals else {})
        for name, values in of_layer.items():
            found[name] = np.full((len(present), *values.shape[1:]), np.nan, dtype=np.float32)
            found[name][present] = values
    return found


def _leading(part: Part, estimate: dict[str, np.ndarray], layer: int, n_exact: int) -> np.ndarray:
    """Columns to be run exactly, ascending; all where there is no estimate."""
    if not estimate:
        return part.columns
    size = estimate[f"shift_L{layer}"]
    if f"toward_L{layer}" in estimate:
        size = np.abs(estimate[f"toward_L{layer}"]).max(axis=1)
    order = np.argsort(-np.nan_to_num(size, nan=np.inf), kind="stable")
    return part.columns[np.sort(order[: n_exact + np.isnan(size).sum()])]


def _merge(
    block: Block, estimates: list[dict[str, np.ndarray]], exact: list[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Exact results, and behind them the estimates of all other perturbations."""
    confirmed = {pair for one in exact for pair in zip(one["cell"].tolist(), one["column"].tolist(), strict=True)}
    parts = [one | {"exact": np.ones(len(one["cell"]), dtype=bool)} for one in exact]
    for part, estimate in zip(block.parts, estimates, strict=True):
        if not estimate:
            continue
        rank = {token: i for i, token in enumerate(part.ids.tolist(), start=1)}
        kept = np.array([(part.cell, column) not in confirmed for column in part.columns.tolist()])
        kept &= ~np.isnan(next(iter(estimate.values())))
        columns = part.columns[kept]
        parts.append(
            {name: values[kept] for name, values in estimate.items()}
            | {
                "cell": np.full(len(columns), part.cell, dtype=np.int64),
                "column": columns,
                "rank": np.array([rank.get(column, 0) for column in columns.tolist()], dtype=np.int32),
                "exact": np.zeros(len(columns), dtype=bool),
            }
        )
    return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
