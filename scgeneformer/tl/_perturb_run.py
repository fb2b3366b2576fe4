"""How `gf.tl.perturb` gets from its arguments to results: checks, cells, goals, and the scan itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.genes import INDEX, GeneMap
from scgeneformer._adata.perturbation_choice import Chooser, check_mode, split
from scgeneformer._adata.perturbation_results import Gathered
from scgeneformer._adata.run_store import RunStore
from scgeneformer._adata.var_tokens import tokens_of_var
from scgeneformer._errors import DataError
from scgeneformer._progress import scan_progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scgeneformer._adata.goal import Goal
    from scgeneformer._adata.groups import Groups
    from scgeneformer._adata.perturbation_choice import Choice, Genes
    from scgeneformer._engine.perturbations import Block, Plan
    from scgeneformer._engine.shifts import Asked
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer.tl._session import Session

POSITIONS = {"shift": (False,), "hold": (True,), "both": (False, True)}
MEASURES = ("genes", "cls", "mean")
MOST_BYTES = 8e9  # of effects or vectors
SHARE_OF_SCREEN = 0.03  # cost of an estimate beside that of a run, as benchmarks find it


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`scgeneformer.tl.perturb` that say what is done and measured."""

    genes: Genes
    mode: str
    to: Any
    anchor: str | None
    refill: bool
    positions: str
    measure: str | None
    effects: bool
    vectors: bool
    n_matched: int
    sample: int | None
    random_state: int
    method: str
    n_exact: int


@dataclass(frozen=True, eq=False)
class Found:
    """Results of a run, by whether positions were held, and what they are of.

    Parameters
    ----------
    gathered
        The results.
    choice
        The perturbations, as found in the data.
    anchor
        Token of the anchor gene.
    mode
        Of the result's key: that of the request, or "edits".
    params
        All they depend on but the layer and the positions.
    tokens_of_var
        Token of each gene, (n_vars,) int32.
    """

    gathered: dict[bool, Gathered]
    choice: Choice
    anchor: int | None
    mode: str
    params: dict[str, Any]
    tokens_of_var: np.ndarray


METHODS = ("exact", "screen")
SCREENED = ("delete", "overexpress")  # modes that can be estimated


def check_screen(request: Request) -> None:
    """Refuse what the screen cannot estimate."""
    if request.method not in METHODS:
        raise DataError(f"method={request.method!r} does not exist; choose 'exact' or 'screen'.")
    if request.method == "exact":
        return
    asked = {
        f"mode={request.mode!r}": request.mode not in SCREENED,
        "combinations of genes": bool(split(request.genes)[1]),
        "anchor=": request.anchor is not None,
        "refill=True": request.refill,
        "effects=True": request.effects,
        "vectors=True": request.vectors,
    }
    if refused := [name for name, given in asked.items() if given]:
        raise DataError(
            f"method='screen' does not estimate {refused[0]}, only the shifts of single genes by deletion or "
            "overexpression. Use method='exact'."
        )


def check(request: Request) -> None:
    """Refuse what can be refused without looking at the data."""
    from scgeneformer._engine.edits import EDITS

    check_mode(request.mode)
    check_screen(request)
    singles, combinations = split(request.genes)
    if request.positions not in POSITIONS:
        raise DataError(f"positions={request.positions!r} does not exist; choose 'shift', 'hold' or 'both'.")
    modes = {request.mode} if not combinations or singles else set()
    modes |= {mode for one in combinations for mode in (one if isinstance(one, Mapping) else [request.mode])}
    for mode in modes:
        check_mode(mode)
    if request.positions != "shift":
        if moving := [mode for mode in EDITS if mode in modes and not EDITS[mode].in_place]:
            holding = ", ".join(repr(mode) for mode, kind in EDITS.items() if kind.in_place)
            raise DataError(
                f"positions={request.positions!r} has no meaning for {moving[0]!r}: it gives genes other ranks, and so "
                f"other positions. Only {holding} leave all other genes where they are."
            )
        if request.refill:
            raise DataError("refill=True moves genes up from beyond the cut: use positions='shift' with it.")
    if request.measure is not None and request.measure not in MEASURES:
        raise DataError(f"measure={request.measure!r} does not exist; choose 'genes', 'cls', 'mean' or None.")
    if request.anchor is not None and combinations:
        raise DataError("anchor= pairs single genes with it; a combination names all of its genes. Give one of them.")
    for name in ("effects", "vectors"):
        if getattr(request, name) and request.genes is None:
            raise DataError(f"{name}=True keeps much for every perturbation. Name the genes: genes=[...].")
    for name, value, least in (
        ("n_matched", request.n_matched, 0),
        ("sample", request.sample, 1),
        ("n_exact", request.n_exact, 0),
    ):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise DataError(f"{name}={value!r} must be a whole number of at least {least}.")
    if request.n_matched and not singles:
        raise DataError(
            "n_matched= goes with genes that are named one by one; all genes of a cell are each other's null."
        )


def find_cells(n_obs: int, goal: Goal | None, groups: Groups | None, sample: int | None, seed: int) -> np.ndarray:
    """Which cells are perturbed, (n_obs,) bool: those of the start state, or a sample of them (of each group)."""
    cells = np.ones(n_obs, dtype=bool) if goal is None else goal.codes == 0
    if sample is None:
        return cells
    codes = np.zeros(n_obs, dtype=np.int64) if groups is None else groups.codes
    kept = np.zeros(n_obs, dtype=bool)
    for code in np.unique(codes[cells & (codes >= 0)]):
        members = np.flatnonzero(cells & (codes == code))
        rng = np.random.default_rng((seed, code))
        kept[rng.choice(members, min(sample, len(members)), replace=False)] = True
    logg.info(f"    a random sample of {int(kept.sum())} of {int(cells.sum())} cells")
    return kept


def run_all(session: Session, request: Request, goal: Goal | None, cells: np.ndarray, out: str | Path | None) -> Found:
    """Perturb the cells, with each treatment of positions that was asked for."""
    vocabulary, var = session.model.vocabulary, session.source.counts.adata.var
    of_var = tokens_of_var(session.source)
    names = var.index.to_numpy(str) if session.source.counts.raw else session.source.genes.names
    chooser = Chooser(var, GeneMap(of_var, INDEX, names), vocabulary)
    choice = chooser.choose(request.genes, request.mode, request.to)
    anchor = None if request.anchor is None else chooser.token_of(request.anchor)
    if request.anchor is not None and anchor is None:
        raise DataError(f"anchor={request.anchor!r} is not in adata.var, or the model does not know it.")
    asked = _asked(session, request, choice, goal, cells)
    named, combinations = split(request.genes)
    only_dicts = named == [] and all(isinstance(one, Mapping) for one in combinations)
    params = _params(session, request, goal, asked.measure)
    store = None if out is None else _store(out, session, request, params, cells)
    gathered = {}
    for hold in POSITIONS[request.positions]:
        plan = _plan(request, choice, anchor, of_var, hold)
        gathered[hold] = Gathered(
            session.source.counts.adata.shape, vocabulary.n_tokens, len(choice.combinations), of_var
        )
        _scan(session, request, plan, asked, cells, store, gathered[hold])
    return Found(gathered, choice, anchor, "edits" if only_dicts else request.mode, params, of_var)


def _plan(request: Request, choice: Choice, anchor: int | None, of_var: np.ndarray, hold: bool) -> Plan:
    from scgeneformer._engine.perturbations import Plan

    return Plan(
        mode=request.mode,
        singles=choice.singles,
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
    from scgeneformer._engine.pooling import get_pooling
    from scgeneformer._engine.shifts import MEASURES as POOLING_OF
    from scgeneformer._engine.shifts import Asked

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
    from scgeneformer._engine.embedding import embed_groups

    n_cells = int((goal.codes >= 0).sum())
    with session.running("embed states", n_cells) as (_, blocks, advance):
        chosen = ((first, t.only(goal.codes[first : first + len(t)] >= 0)) for first, t in blocks)
        found, counts = embed_groups(
            chosen,
            goal.codes,
            len(goal.states),
            session.berts,
            session.model.vocabulary,
            session.layers,
            pooling,
            session.tokens_per_batch,
            advance,
        )
    if empty := [state for state, n in zip(goal.states, counts, strict=True) if not n]:
        raise DataError(f"No cell of the state {empty[0]!r} has a gene that the model knows.")
    return found


def _params(session: Session, request: Request, goal: Goal | None, measure: str) -> dict[str, Any]:
    """What the results depend on beside model, data and layer."""
    params: dict[str, Any] = {"mode": request.mode, "measure": measure, "refill": request.refill}
    optional = {"to": request.to, "anchor": request.anchor, "sample": request.sample}
    params |= {name: value for name, value in optional.items() if value is not None}
    params |= {"random_state": request.random_state} if request.sample is not None else {}
    params |= {"n_matched": request.n_matched} if request.n_matched else {}
    params |= {"method": request.method} | ({"n_exact": request.n_exact} if request.method == "screen" else {})
    if goal is not None:
        params |= {"goal_column": goal.column, "start": goal.states[0], "goal": goal.states[1]}
    return session.params(**params)


def _store(out: str | Path, session: Session, request: Request, params: dict[str, Any], cells: np.ndarray) -> RunStore:
    """The store of this run, made or found again."""
    obs_names = session.source.counts.adata.obs_names
    digest = hashlib.sha256("\n".join(map(str, obs_names)).encode() + cells.tobytes())
    manifest = params | {
        "genes asked for": repr(request.genes),
        "layers": session.layers,
        "positions": request.positions,
        "effects": request.effects,
        "vectors": request.vectors,
        "cells": digest.hexdigest(),
    }
    store = RunStore(out, manifest, tokens_per_batch=session.tokens_per_batch)
    session.tokens_per_batch = store.choices["tokens_per_batch"]  # so that the same batches are run again
    return store


def _scan(
    session: Session,
    request: Request,
    plan: Plan,
    asked: Asked,
    cells: np.ndarray,
    store: RunStore | None,
    gathered: Gathered,
) -> None:
    """Run one plan over the cells; parts that are in the store are read from there."""
    from scgeneformer._engine.device import matmul_precision
    from scgeneformer._engine.perturbations import cut_blocks, each_cell
    from scgeneformer._engine.scan import scan
    from scgeneformer._engine.screened import screened_scan

    vocabulary = session.model.vocabulary
    run = scan if request.method == "exact" else partial(screened_scan, n_exact=request.n_exact)
    announce_scan(session, plan, int(cells.sum()), request)
    label = "hold" if plan.hold else "shift"
    with scan_progress(int(cells.sum()), "perturb") as advance, matmul_precision(session.dtype):

        def done(block: Block, results: dict[str, np.ndarray]) -> None:
            if store is not None:
                store.save(f"{label}-{block.number:06d}-{block.checksum[:16]}", results)
            gathered.add(results)

        def missing(blocks: Iterator[Block]) -> Iterator[Block]:
            for block in blocks:
                name = f"{label}-{block.number:06d}-{block.checksum[:16]}"
                stored = None if store is None else store.load(name)
                if stored is None:
                    yield block
                    continue
                gathered.add(stored)
                advance(block.n_cells, 0)

        blocks = missing(cut_blocks(each_cell(_genes_of_cells(session, plan), cells), plan, vocabulary))
        passed = (session.berts, session.layers, session.tokens_per_batch)
        run(blocks, plan, vocabulary, *passed, asked, done, advance)
    gathered.finish()


def _genes_of_cells(session: Session, plan: Plan) -> Iterator[tuple[int, Tokens, np.ndarray]]:
    """Genes of the cells without special tokens, and their values where the plan needs them."""
    from scgeneformer._engine.tokens import Tokens, offsets_of

    if plan.whole_cells:
        yield from session.source.whole_blocks()
        return
    vocabulary = session.model.vocabulary
    lead, trail = vocabulary.n_lead, vocabulary.n_trail
    for first, tokens, _ in session.source.blocks():
        parts = [tokens.ids[a + lead : max(a + lead, b - trail)] for a, b in pairwise(tokens.offsets.tolist())]
        ids = np.concatenate([np.empty(0, np.int32), *parts])
        yield first, Tokens(ids, offsets_of(np.array([len(part) for part in parts], dtype=np.int64))), np.empty(0)


def announce_scan(session: Session, plan: Plan, n_cells: int, request: Request) -> None:
    """Say how long it will take; a screen costs little more than the perturbations that are run exactly."""
    from scgeneformer._engine.cost import announce

    lengths = session.source.sample_lengths()
    n = lengths if plan.singles is None else np.full(len(lengths), len(plan.singles))
    n = n * (1 + plan.n_matched) + len(plan.combinations)
    if request.method == "screen":
        n = np.minimum(n, request.n_exact) + n * SHARE_OF_SCREEN
    announce(session.berts[0], max(session.layers), lengths, n_cells, name=session.model.name, passes=n + 1)
