"""The screen beside the exact scan: how well it ranks deletions, and how much time it takes.

    OMP_NUM_THREADS=1 python benchmarks/screen.py FILE.h5ad [...] [--cells 1] [--genes 1000 1100]
        [--positions hold shift] [--carried 16 32 64] [--confirm 0 25 50 75] [--exact all|400] [--gradients 16]

Real cells with so many genes of the model's vocabulary, model `mini`, hidden layer -2. Every cell is scanned exactly
(`_engine/perturbation/scan.py`, packed batches), then screened in each setting; confirmed candidates take their exact
values, at the exact scan's time for each. Times are processor times of this process, so that other work on the machine
matters less; "ratio" is the time of the full exact scan over that of screen and confirmation together.

With `--exact N` only N deletions of each cell are scanned exactly, half of them those that lead in the screen with most
genes, half drawn at random from the others, and the time of the full scan is N's, scaled up. Spearman is then over the
random half and as many of the leading ones as a random draw would hold; the exact top 50 are those of the N.

With several cells of one file the last lines are for the mean over cells of the genes that half of the cells express.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import anndata as ad
import numpy as np
import torch
from scipy.stats import spearmanr
from screen_gradients import shift_by_projections, towards_goals

import scgeneformer as gf
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.perturbation.perturbed_cells import Plan, cut_blocks
from scgeneformer._engine.perturbation.scan import scan
from scgeneformer._engine.perturbation.screen import screen_cell
from scgeneformer._engine.perturbation.shifts import Asked
from scgeneformer._engine.pooling import pool_mean
from scgeneformer._engine.tokens import Tokens, concatenate

TOP = 50


class Scanned(NamedTuple):
    """Deletions of one cell: shift (p,) and shifts to the goals (n_states, p), and the seconds it took."""

    shift: np.ndarray
    towards: np.ndarray
    seconds: float


def exact(
    model: gf.models.Model, ids: np.ndarray, targets: np.ndarray, layer: int, hold: bool, goals: np.ndarray
) -> Scanned:
    """Scan exactly, in the order of `targets`."""
    plan, found = Plan("delete", targets, hold=hold), []
    asked = Asked("genes", goals={layer: goals.astype(np.float32)})
    start = time.process_time()
    blocks = cut_blocks([(0, ids, np.empty(0))], plan, model.vocabulary)
    budget = choose_tokens_per_batch(model.bert, None)
    scan(
        blocks,
        plan,
        model.vocabulary,
        [model.bert],
        [layer],
        budget,
        asked,
        lambda block, results: found.append(results),
    )
    seconds = time.process_time() - start
    column, shift, towards = (
        np.concatenate([f[name] for f in found]) for name in ("column", f"shift_L{layer}", f"toward_L{layer}")
    )
    order = np.argsort(column)
    place = order[np.searchsorted(column[order], targets)]
    return Scanned(shift[place].astype(float), towards[place].T.astype(float), seconds)


def screened(
    model: gf.models.Model, ids: np.ndarray, layer: int, hold: bool, goals: np.ndarray, n_carried: int, n_pilots: int
) -> Scanned:
    start = time.process_time()
    shift, towards = screen_cell(
        model.bert, ids, layer=layer, hold=hold, n_carried=n_carried, n_pilots=n_pilots, goals=torch.from_numpy(goals)
    )
    return Scanned(shift, towards, time.process_time() - start)


def by_gradients(model: gf.models.Model, ids: np.ndarray, layer: int, hold: bool, goals: np.ndarray, k: int) -> Scanned:
    start = time.process_time()
    shift = shift_by_projections(model.bert, ids, layer, hold, k)
    seconds = time.process_time() - start
    return Scanned(shift, towards_goals(model.bert, ids, layer, hold, torch.from_numpy(goals)), seconds)


def confirmed(estimate: np.ndarray, truth: np.ndarray, n: int) -> np.ndarray:
    """Exact values for the `n` leading candidates; the others are scaled by what was found for these."""
    leading = np.argsort(-estimate)[:n]
    scale = np.median(truth[leading] / estimate[leading]) if n else 1.0
    result = estimate * scale
    result[leading] = truth[leading]
    return result


def describe(name: str, result: np.ndarray, truth: np.ndarray, even: np.ndarray, time_ratio: float | None) -> None:
    top = [set(np.argsort(-x)[:TOP]) for x in (result, truth)]
    ratio = "" if time_ratio is None else f"   ratio {time_ratio:6.1f}"
    rho = spearmanr(result[even], truth[even])[0]
    print(f"  {name:34} Spearman {rho:.4f}   top {TOP} found {len(top[0] & top[1]) / TOP:.2f}{ratio}", flush=True)


def make_goals(model: gf.models.Model, cells: Tokens, layer: int) -> np.ndarray:
    """Mean embeddings of the first and of the last 20 cells, unit length, (2, d)."""
    both = [cells.slice(0, 20), cells.slice(len(cells) - 20, len(cells))]
    found = [
        embed_cells([(0, some)], 20, [model.bert], model.vocabulary, [layer], pool_mean, 4096)[layer] for some in both
    ]
    means = np.stack([x.mean(axis=0) for x in found]).astype(np.float64)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def chosen(
    model: gf.models.Model, ids: np.ndarray, args: argparse.Namespace, hold: bool, layer: int, goals: np.ndarray
):
    """Places whose deletion is scanned exactly, and those of them over which ranks are compared."""
    n = len(ids)
    if args.exact == "all" or int(args.exact) >= n:
        return np.arange(n), np.arange(n)
    half, rng = int(args.exact) // 2, np.random.default_rng(0)
    leading = np.argsort(-screened(model, ids, layer, hold, goals, max(args.carried), args.pilots[-1]).shift)[:half]
    rest = rng.choice(np.setdiff1d(np.arange(n), leading), half, replace=False)
    fair = rng.choice(leading, max(1, round(half * half / (n - half))), replace=False)
    places = np.concatenate([leading, rest])
    return places, np.flatnonzero(np.isin(places, np.concatenate([rest, fair])))


def run_cell(
    model: gf.models.Model, ids: np.ndarray, goals: np.ndarray, args: argparse.Namespace, hold: bool, layer: int
) -> dict:
    """Print the figures of one cell; (estimate, truth, tokens) of each setting, and its times."""
    places, even = chosen(model, ids, args, hold, layer, goals)
    truth = exact(model, ids, ids[places], layer, hold, goals)
    full = truth.seconds * len(ids) / len(places)
    rank = spearmanr(truth.shift[even], places[even])[0]
    print(
        f"  exact: {full:.0f} s, {full / len(ids) * 1000:.0f} ms each, median {np.median(truth.shift[even]):.1e}, "
        f"Spearman with rank {rank:.3f}"
    )
    ways = {
        f"{m} genes" + ("" if hold else f", {k} pilots"): (screened, (m, k))
        for m in args.carried
        for k in (args.pilots[:1] if hold else args.pilots)
    }
    ways |= {f"{k} backward passes": (by_gradients, (k,)) for k in args.gradients}
    found = {}
    for name, (way, options) in ways.items():
        one = way(model, ids, layer, hold, goals, *options)
        estimate = one.shift[places]
        for n in args.confirm:
            seconds = one.seconds + n * full / len(ids)
            label = name + (f", {n} confirmed" if n else "")
            describe(label, confirmed(estimate, truth.shift, n), truth.shift, even, full / seconds)
        r = [np.corrcoef(a[places][even], b[even])[0, 1] for a, b in zip(one.towards, truth.towards, strict=True)]
        scale = np.median(truth.shift / estimate)
        print(
            f"  {'':34} towards goals: r {', '.join(f'{x:.4f}' for x in r)}   exact / estimate {scale:.3f}", flush=True
        )
        found[name] = (estimate, truth.shift, ids[places], one.seconds, full)
    return found


def run_group(cells: list[dict], args: argparse.Namespace) -> None:
    """Print the figures of the means over cells; candidates are confirmed in each cell."""
    for name in cells[0]:
        tokens, n_cells = np.unique(np.concatenate([cell[name][2] for cell in cells]), return_counts=True)
        tokens = tokens[n_cells >= len(cells) / 2]
        seconds, full = (sum(cell[name][i] for cell in cells) for i in (3, 4))
        each = sum(cell[name][4] / len(cell[name][2]) for cell in cells)  # of one deletion in every cell
        for n in args.confirm:
            sums = np.zeros((2, len(tokens)))
            for estimate, truth, ids, _, _ in (cell[name] for cell in cells):
                known = np.isin(ids, tokens)
                both = np.stack([confirmed(estimate, truth, n), truth])
                np.add.at(sums, (slice(None), np.searchsorted(tokens, ids[known])), both[:, known])
            estimate, truth = sums / n_cells[n_cells >= len(cells) / 2]
            label = name + (f", {n} confirmed" if n else "")
            describe(label, estimate, truth, np.arange(len(tokens)), full / (seconds + n * each))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--cells", type=int, default=1, help="of each file")
    parser.add_argument("--genes", type=int, nargs=2, default=[1000, 2048], help="fewest and most that a cell may have")
    parser.add_argument("--positions", nargs="+", choices=["hold", "shift"], default=["hold", "shift"])
    parser.add_argument("--carried", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--pilots", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--confirm", type=int, nargs="+", default=[0, 25, 50])
    parser.add_argument("--gradients", type=int, nargs="*", default=[])
    parser.add_argument("--exact", default="all")
    args = parser.parse_args()
    model = gf.models.load("mini", device="cpu", dtype="float32")
    layer = model.n_blocks - 1
    for file in args.files:
        source = open_tokens(ad.read_h5ad(file), model.vocabulary)
        tokens = concatenate([tokens for _, tokens, _ in source.blocks()])
        rows = np.flatnonzero((tokens.lengths >= args.genes[0]) & (tokens.lengths <= args.genes[1]))[: args.cells]
        goals = make_goals(model, tokens, layer)
        for positions in args.positions:
            found = []
            for row in rows:
                print(f"{file.rsplit('/', 1)[-1]}, cell {row}, {len(tokens[row])} genes, positions {positions}")
                found.append(run_cell(model, tokens[row], goals, args, positions == "hold", layer))
            if len(rows) > 1 and args.exact == "all":
                print(f"{file.rsplit('/', 1)[-1]}, mean over {len(rows)} cells, positions {positions}")
                run_group(found, args)


if __name__ == "__main__":
    main()
