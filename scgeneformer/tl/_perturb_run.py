"""How `gf.tl.perturb` gets from its arguments to results: perturbations, goals, store, and the scan itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata.disk.parts import Parts, checksum_of
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.genes import INDEX, GeneMap
from scgeneformer._adata.perturbation.choice import Chooser
from scgeneformer._adata.perturbation.results import Gathered
from scgeneformer._adata.var_tokens import tokens_of_var
from scgeneformer._errors import DataError
from scgeneformer._progress import scan_progress
from scgeneformer.tl._chunks import in_chunks, over_chunks
from scgeneformer.tl._embed_cells_chunks import group_means
from scgeneformer.tl._perturb_request import POSITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from scgeneformer._adata.disk.run_store import RunStore
    from scgeneformer._adata.perturbation.choice import Choice
    from scgeneformer._adata.perturbation.goal import Goal
    from scgeneformer._engine.perturbation.perturbed_cells import Block, Plan
    from scgeneformer._engine.perturbation.shifts import Asked
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer.tl._perturb_request import Request
    from scgeneformer.tl._session import Session

MOST_BYTES = 8e9  # of effects or vectors
SHARE_OF_SCREEN = 0.03  # cost of an estimate beside that of a run, in cells of 500 to 1,000 genes


@dataclass(frozen=True, eq=False)
class Found:
    """Results of a run, by whether positions were held, and what they are of.

    Parameters
    ----------
    gathered
        The results.
    choice
        The perturbations, as found in the data.
    params
        All they depend on but the layer and the positions.
    tokens_of_var
        Token of each gene, (n_vars,) int32.
    """

    gathered: dict[bool, Gathered]
    choice: Choice
    params: dict[str, Any]
    tokens_of_var: np.ndarray


def run_all(session: Session, request: Request, goal: Goal | None, cells: np.ndarray, out: str | Path | None) -> Found:
    """Perturb the cells, with each treatment of positions that was asked for."""
    vocabulary, var = session.model.vocabulary, in_memory(session.source.counts.adata.var)
    of_var = tokens_of_var(session.source)
    names = var.index.to_numpy(str) if session.source.counts.raw else session.source.genes.names
    chooser = Chooser(var, GeneMap(of_var, INDEX, names), vocabulary)
    choice = chooser.choose(request.genes, request.mode, request.to)
    anchor = None if request.anchor is None else chooser.token_of(request.anchor)
    if anchor is not None:
        request = replace(request, anchor=str(var.index[of_var == anchor][0]))  # however it was named
    elif request.anchor is not None:
        raise DataError(
            f"anchor={request.anchor!r} is not in adata.var, or the model does not know it. Name another gene."
        )
    asked = _asked(session, request, choice, goal, cells)
    params = _params(session, request, goal, asked.measure)
    gathered, shape = {}, session.source.counts.adata.shape
    named = {"genes asked for": choice.asked}
    with _store(out, session, request, params | named, goal, cells) as (session, store):
        for hold in POSITIONS[request.positions]:
            plan = _plan(request, choice, anchor, of_var, hold)
            gathered[hold] = Gathered(shape, vocabulary.n_tokens, len(choice.combinations), of_var)
            _scan(session, request, plan, asked, cells, store, gathered[hold])
    return Found(gathered, choice, params, of_var)


def _plan(request: Request, choice: Choice, anchor: int | None, of_var: np.ndarray, hold: bool) -> Plan:
    from scgeneformer._engine.perturbation.perturbed_cells import Plan

    singles = choice.singles
    if anchor is not None and singles is not None:
        singles = np.union1d(singles, np.int32(anchor))  # the anchor alone, to compare the pairs with
    return Plan(
        mode=request.mode,
        singles=singles,
        to=choice.to,
        combinations=choice.combinations,
        anchor=anchor,
        n_matched=request.n_matched,
        pool=np.unique(of_var[of_var >= 0]),
        refill=request.refill,
        hold=hold,
    )


def _asked(session: Session, request: Request, choice: Choice, goal: Goal | None, cells: np.ndarray) -> Asked:
    """What is measured; embeds the states if there is a goal."""
    from scgeneformer._engine.perturbation.shifts import MEASURES as POOLING_OF
    from scgeneformer._engine.perturbation.shifts import Asked
    from scgeneformer._engine.pooling import get_pooling

    vocabulary = session.model.vocabulary
    measure = request.measure or ("genes" if vocabulary.cls_token is None else "cls")
    pooling = get_pooling(POOLING_OF[measure], vocabulary)
    n = len(choice.combinations) + (0 if choice.singles is None else len(choice.singles))
    sizes = {
        "effects": request.effects * n * (24 * vocabulary.n_tokens + 12 * session.source.counts.adata.n_vars),
        "vectors": request.vectors * n * 4 * session.model.width * len(cells),
    }
    for name, size in sizes.items():
        if size * len(session.layers) > MOST_BYTES:
            raise DataError(f"{name}=True of {n} perturbations takes {size / 1e9:.0f} GB. Name fewer genes at a time.")
    goals = {} if goal is None else _embed_states(session, goal, pooling)
    return Asked(measure, goals, request.vectors, request.effects)


def _embed_states(session: Session, goal: Goal, pooling: Any) -> dict[int, np.ndarray]:
    """Mean embedding of the cells of each state, (n_states, d) by layer."""
    from scgeneformer._engine.embedding import means_of, sum_groups
    from scgeneformer._engine.tokens import only_cells

    n_cells, n_states = int((goal.codes >= 0).sum()), len(goal.states)
    if in_chunks(session):
        passed = (session, "embed states", pooling, goal.codes, n_states)
        found, counts, _ = group_means(*passed, chosen=goal.codes >= 0)
        return _no_empty(found, counts, goal)
    with session.running("embed states", n_cells) as (_, blocks, advance):
        sums = sum_groups(
            only_cells(blocks, goal.codes >= 0),
            goal.codes,
            n_states,
            session.berts,
            session.model.vocabulary,
            session.layers,
            pooling,
            session.tokens_per_batch,
            advance,
        )
    return _no_empty(*means_of(*sums), goal)


def _no_empty(found: dict[int, np.ndarray], counts: np.ndarray, goal: Goal) -> dict[int, np.ndarray]:
    if empty := [state for state, n in zip(goal.states, counts, strict=True) if not n]:
        raise DataError(
            f"No cell of the state {empty[0]!r} has a gene that the model knows. Look at them: gf.pp.check(adata)."
        )
    return found


def _params(session: Session, request: Request, goal: Goal | None, measure: str) -> dict[str, Any]:
    """What the results depend on beside model, data and layer."""
    params: dict[str, Any] = {"mode": request.mode, "measure": measure, "refill": request.refill}
    optional = {"to": request.to, "anchor": request.anchor, "sample": request.sample}
    params |= {name: value for name, value in optional.items() if value is not None}
    if request.sample is not None or request.method == "screen":
        params["seed"] = request.seed
    params |= {"n_matched": request.n_matched} if request.n_matched else {}
    params |= {"method": request.method} | ({"n_exact": request.n_exact} if request.method == "screen" else {})
    if goal is not None:
        params |= {"goal_column": goal.column, "start": goal.states[0], "goal": goal.states[1]}
        params |= {"alternatives": np.array(goal.states[2:])} if len(goal.states) > 2 else {}
    return session.params(**params)


def _store(
    out: str | Path | None,
    session: Session,
    request: Request,
    params: dict[str, Any],
    goal: Goal | None,
    cells: np.ndarray,
) -> AbstractContextManager[tuple[Session, RunStore | None]]:
    """The store of this run, made or found again, and the session that goes with it."""
    chosen = hashlib.sha256(cells.tobytes() + (b"" if goal is None else goal.codes.tobytes())).hexdigest()
    asked = {
        "layers": session.layers,
        "positions": request.positions,
        "effects": request.effects,
        "vectors": request.vectors,
        "cells": chosen,
        "counts of the states": None if out is None or goal is None else _checksum(session, goal),
    }
    return session.kept_in(out, "perturb", params | asked)


def _checksum(session: Session, goal: Goal) -> str:
    """Checksum of the cells of all states, as the model reads them."""
    if in_chunks(session):
        passed = (session, "read states", _checksums_of)
        found = [one for part in over_chunks(*passed, rows=[goal.codes], chosen=goal.codes >= 0) for one in part]
    else:
        found = _checksums_of(session, goal.codes)
    return hashlib.sha256("".join(found).encode()).hexdigest()


def _checksums_of(session: Session, codes: np.ndarray) -> list[str]:
    from scgeneformer._engine.tokens import only_cells

    blocks = ((first, tokens) for first, tokens, _ in session.source.blocks())
    return [checksum_of(block) for block in only_cells(blocks, codes >= 0)]


def _scan(
    session: Session,
    request: Request,
    plan: Plan,
    asked: Asked,
    cells: np.ndarray,
    store: RunStore | None,
    gathered: Gathered,
) -> None:
    """Run one plan over the cells, chunk by chunk where they are read from dask arrays."""
    if plan.whole_cells:
        session = replace(session, source=session.source.from_counts())
    if in_chunks(session):
        if store is not None:  # the workers repeat the batches
            session = replace(session, budget=session.tokens_per_batch)
        passed = (request, plan, asked, store)
        for found in over_chunks(session, "perturb", _results_of, *passed, rows=[cells], chosen=cells):
            for part in found:
                gathered.add(part)
    else:
        _scan_cells(session, request, plan, asked, store, cells, gathered.add)
    gathered.finish()


def _results_of(
    session: Session, request: Request, plan: Plan, asked: Asked, store: RunStore | None, cells: np.ndarray
) -> list[dict[str, np.ndarray]]:
    """Results of a chunk, block by block, with the numbers of its cells in the data set."""
    found: list[dict[str, np.ndarray]] = []
    _scan_cells(session, request, plan, asked, store, cells, found.append)
    return [part | {"cell": part["cell"] + session.first} for part in found]


def _scan_cells(
    session: Session,
    request: Request,
    plan: Plan,
    asked: Asked,
    store: RunStore | None,
    cells: np.ndarray,
    take: Callable[[dict[str, np.ndarray]], object],
) -> None:
    """Run one plan over the cells; parts that are in the store are read from there."""
    from scgeneformer._engine.device import matmul_precision
    from scgeneformer._engine.perturbation.perturbed_cells import cut_blocks, each_cell
    from scgeneformer._engine.perturbation.scan import scan
    from scgeneformer._engine.perturbation.screened import screened_scan

    vocabulary = session.model.vocabulary
    run = scan if request.method == "exact" else partial(screened_scan, n_exact=request.n_exact, seed=request.seed)
    chunk = "" if session.first is None else f"{session.first:09d}-"
    if session.first is None:
        announce_scan(session, plan, int(cells.sum()), request)

    def name_of(block: Block) -> tuple[str, str]:
        return f"{'hold' if plan.hold else 'shift'}-{chunk}{block.number:06d}", block.checksum

    show = session.first is None
    with scan_progress(int(cells.sum()), "perturb", show=show) as advance, matmul_precision(session.dtype):
        parts = Parts(store, name_of, lambda block, found: take(found), lambda block: advance(block.n_cells, 0))
        each, split = each_cell(_genes_of_cells(session, plan), cells), request.method == "exact"
        blocks = parts.missing(cut_blocks(each, plan, vocabulary, split=split))
        passed = (session.berts, session.layers, session.tokens_per_batch)
        run(blocks, plan, vocabulary, *passed, asked, parts.done, advance)


def _genes_of_cells(session: Session, plan: Plan) -> Iterator[tuple[int, Tokens, np.ndarray]]:
    """Genes of the cells without special tokens, and their values where the plan needs them."""
    from scgeneformer._engine.sequences import genes_of

    if plan.whole_cells:
        yield from session.source.whole_blocks()
        return
    for first, tokens, _ in session.source.blocks():
        yield first, genes_of(tokens, session.model.vocabulary), np.empty(0)


def announce_scan(session: Session, plan: Plan, n_cells: int, request: Request) -> None:
    """Say how long it will take; a screen costs little more than the perturbations that are run exactly."""
    from scgeneformer._engine.cost import announce

    lengths = session.source.sample_lengths()
    n = lengths if plan.singles is None else np.full(len(lengths), len(plan.singles))
    n = n * (1 + plan.n_matched) + len(plan.combinations)
    if request.method == "screen":
        n = np.minimum(n, request.n_exact) + n * SHARE_OF_SCREEN
    announce(session.berts[0], max(session.layers), lengths, n_cells, name=session.model.name, passes=n + 1)
