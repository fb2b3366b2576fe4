"""What `embed_genes` costs beside `embed_cells` on the same cells, and how much memory its sums take.

    python benchmarks/genes.py [--shape V1-10M mini] [--cells 256] [--groups 10]

Time: the same cells, random weights of the shape, hidden layer -2. Rounds alternate between the two (cells: mean
pooling; genes: sums of every gene in every group, then means over all cells and in each group); the ratio is the median
of the ratios within a round, so that a machine whose speed drifts does not favour either side. At most 1.15 is asked
for.

Memory: `--memory-genes` × `--memory-groups` × d 256, in a process of its own: batches of random states are summed until
every pair of group and gene has occurred, and all means are read off. The sums are float64, 8 bytes per number, the
result float32, 4 bytes: 3.1 GB for 20,000 genes × 50 groups.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from embed import SHAPES, cell_lengths, config, vocabulary
from transformers import BertModel

from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.forward import Batch
from scgeneformer._engine.gene_sums import GeneSummer, gene_sums
from scgeneformer._engine.packing import pack
from scgeneformer._engine.pooling import pool_mean
from scgeneformer._engine.tokens import Tokens

SHAPES["mini"] = (6, 128, 4, 256, 18_035, 2048)


def seconds_of_rounds(shape: str, n_cells: int, n_groups: int, rounds: int, device: str, dtype: str) -> np.ndarray:
    """Seconds of cells and of genes in each round, (rounds, 2)."""
    torch.manual_seed(0)
    bert = use_own_kernels(BertModel(config(shape), add_pooling_layer=False).eval())
    bert = bert.to(device, getattr(torch, dtype))
    n_tokens, input_size = bert.config.vocab_size, bert.config.max_position_embeddings
    rng = np.random.default_rng(1)
    lengths = cell_lengths("uniform", n_cells, input_size)
    tokens = Tokens.from_lists([rng.choice(np.arange(2, n_tokens), n, replace=False) for n in lengths])
    genes, layer = vocabulary(n_tokens, input_size), bert.config.num_hidden_layers - 1
    budget = choose_tokens_per_batch(bert, None)
    group_of_cell, slot_of_token = np.arange(n_cells) % n_groups, np.arange(n_tokens) - 2
    slot_of_token[:2] = -1

    def cells() -> None:
        embed_cells([(0, tokens)], n_cells, [bert], genes, [layer], pool_mean, budget)

    def all_genes() -> None:
        sums = gene_sums([(0, tokens)], [bert], [layer], budget, group_of_cell, n_groups, slot_of_token, n_tokens - 2)
        for group in (None, *range(n_groups)):
            sums.of(layer, group)

    return np.array([[clock(cells), clock(all_genes)] for _ in range(rounds + 1)])[1:]  # the first round warms up


def clock(function: Callable[[], None]) -> float:
    """Seconds a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory(n_genes: int, n_groups: int, width: int = 256) -> None:
    """Sum states until every pair of group and gene has occurred, read off all means, print the peak."""
    before = peak()
    summer = GeneSummer(torch.device("cpu"), width, [0], np.arange(n_groups), n_groups, np.arange(n_genes), n_genes)
    for group in range(n_groups):
        for genes in np.array_split(np.arange(n_genes), 10):
            tokens = Tokens.from_lists([genes])
            states = torch.randn(len(genes), width)
            summer.add(Batch(np.array([group]), tokens, pack(tokens), {0: states}))
    summer.finish()
    out = np.empty((n_genes, n_groups, width), dtype=np.float32)  # as it is stored in `varm`
    for group in range(n_groups):
        out[:, group] = summer.result.of(0, group)
    every = summer.result.of(0)
    assert np.isfinite(out).all()
    assert np.isfinite(every).all()
    print(f"{n_genes:,} genes × {n_groups} groups × d {width}: peak {(peak() - before) / 1e9:.2f} GB")


def peak() -> int:
    """Largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, nargs="*", default=["V1-10M", "mini"])
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--memory-genes", type=int, default=20_000)
    parser.add_argument("--memory-groups", type=int, default=50)
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_only:
        peak_memory(args.memory_genes, args.memory_groups)
        return
    sizes = ["--memory-genes", str(args.memory_genes), "--memory-groups", str(args.memory_groups)]
    # first: a process begins with the peak of the one that started it
    subprocess.run([sys.executable, __file__, "--memory-only", *sizes], check=True)
    for shape in args.shape:
        times = seconds_of_rounds(shape, args.cells, args.groups, args.rounds, args.device, args.dtype)
        ratios = times[:, 1] / times[:, 0]
        cells, genes = args.cells / np.median(times, axis=0)
        print(
            f"{shape} {args.dtype} on {args.device}: cells {cells:.1f}/s, genes in {args.groups} groups {genes:.1f}/s, "
            f"time x {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})"
        )


if __name__ == "__main__":
    main()
