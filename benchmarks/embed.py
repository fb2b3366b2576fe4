"""Cells per second of packed inference beside the reference's way and beside the strongest simple competitor.

    python benchmarks/embed.py [--shape V1-10M] [--cells 64] [--lengths uniform|FILE.h5ad] [--dtype float32 bfloat16]

All run in this process on the same cells with the same random weights: `--rounds` rounds in which each has
`--seconds` (whole batches, so the large ones take longer). Cells are grouped by length, the batches come in random
order, and a cell counts by its operations, 1 on average, so that a way that does not get through all cells in its time
is not judged by the longest. Rates are medians over the rounds, ratios are medians of the ratios within a round, so
that a machine whose speed drifts does not favour either side:

- ours: packed, no padding, no head, stops at hidden layer -2, mean pooling;
- reference: padded float32 `BertForMaskedLM`, SDPA, all hidden states and the logits, longest cells first, at its
  default of 100 cells per batch (all, if fewer; as many as fit) and at its best batch size;
- competitor: padded `BertModel` without head in the precision of ours, SDPA, cells sorted by length, at its best
  batch size.

- matmul: plain matrix products at the shapes of a block's linear maps; the share is (model FLOP of ours / time) /
  that rate.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from scgeneformer._engine.cost import choose_tokens_per_batch, flops_per_cell
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.pooling import pool_mean
from scgeneformer._engine.tokens import Tokens
from scgeneformer._engine.vocabulary import Vocabulary

SHAPES = {  # blocks, width, heads, feed-forward, tokens, input size
    "V1-10M": (6, 256, 4, 512, 25_426, 2048),
    "V2-104M": (12, 768, 12, 3072, 20_275, 4096),
    "V2-316M": (18, 1152, 18, 4608, 20_275, 4096),
}


def config(shape: str) -> BertConfig:
    blocks, width, heads, feed_forward, n_tokens, input_size = SHAPES[shape]
    return BertConfig(
        vocab_size=n_tokens,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        max_position_embeddings=input_size,
        hidden_act="relu",
        pad_token_id=0,
    )


def cell_lengths(source: str, n_cells: int, input_size: int) -> np.ndarray:
    """Lengths from 200 to the input size, or those of the cells of a file."""
    rng = np.random.default_rng(0)
    if source == "uniform":
        return rng.integers(200, input_size + 1, n_cells)
    import anndata as ad

    n_genes = np.asarray((ad.read_h5ad(source).X > 0).sum(axis=1)).ravel()
    return np.minimum(rng.choice(n_genes, n_cells), input_size)


def vocabulary(n_tokens: int, input_size: int) -> Vocabulary:
    genes = np.arange(2, n_tokens, dtype=np.int32)
    return Vocabulary(genes, genes.astype(str), genes.astype(str), np.ones(len(genes)), {"<pad>": 0}, input_size)


def padded(tokens: Tokens, cells: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    part = tokens.take(cells)
    ids = torch.from_numpy(part.to_padded(int(part.lengths.max())).astype(np.int64))
    return ids, (ids != 0).long()


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def largest_that_fits(n_cells: int, shape: str, lengths: np.ndarray, device: torch.device) -> int:
    """Most cells of the longest length whose logits and hidden states fit into 70 % of the free memory."""
    blocks, width, _, feed_forward, n_tokens, _ = SHAPES[shape]
    per_cell = 4 * int(lengths.max()) * (n_tokens + (blocks + 8) * width + 2 * feed_forward)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free
    return max(1, min(n_cells, int(0.7 * free / per_cell)))


def padded_way(model: torch.nn.Module, batch: int, tokens: Tokens, until: float) -> float:
    """By length, padded to the longest, all hidden states, mean over the real tokens; cells done in the time."""
    order, done = np.argsort(-tokens.lengths), 0.0
    work = flops_per_cell(model, 1, tokens.lengths)
    for start in np.random.default_rng(0).permutation(np.arange(0, len(order), batch)):
        cells = order[start : start + batch]
        ids, mask = (x.to(model.device) for x in padded(tokens, cells))
        with torch.inference_mode():
            state = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
            ((state.float() * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)).cpu()
        done += work[cells].sum() / work.mean()
        if time.perf_counter() > until:
            break
    return done


def packed_way(bert: BertModel, genes: Vocabulary, tokens: Tokens, until: float) -> int:
    """Our engine on all cells."""
    layer, budget = bert.config.num_hidden_layers - 1, choose_tokens_per_batch(bert, None)
    embed_cells([(0, tokens)], len(tokens), [bert], genes, [layer], pool_mean, budget)
    return len(tokens)


def products(shape: str, dtype: torch.dtype, device: torch.device) -> list[tuple[torch.Tensor, torch.nn.Linear]]:
    """Linear maps of a block, 4 of d x d, one of d x f, one of f x d, and 8192 tokens (CUDA: 65,536) for each."""
    _, width, _, feed_forward, _, _ = SHAPES[shape]
    maps = [(width, width)] * 4 + [(width, feed_forward), (feed_forward, width)]
    on: dict = {"dtype": dtype, "device": device}
    n_tokens = 65_536 if device.type == "cuda" else 8192
    return [(torch.randn(n_tokens, a, **on), torch.nn.Linear(a, b, **on)) for a, b in maps]


def matmul_way(pairs: list[tuple[torch.Tensor, torch.nn.Linear]], tokens: Tokens, until: float) -> float:
    """Linear maps of a block alone; GFLOP done in the time."""
    done = 0.0
    with torch.inference_mode():
        while not done or time.perf_counter() < until:
            for x, linear in pairs:
                linear(x)
            wait_for(pairs[0][0].device)
            done += sum(2 * len(x) * linear.weight.numel() for x, linear in pairs) / 1e9
    return done


def measure(ways: dict[str, Callable], tokens: Tokens, rounds: int, seconds: float) -> dict[str, np.ndarray]:
    """Work per second of each way in each round, (rounds,) by name."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(tokens.slice(0, 2), time.perf_counter() + 0.1)  # warms up
        if torch.cuda.is_available():  # memory and kernels of every shape
            way(tokens, time.perf_counter() + seconds)
    for _ in range(rounds):
        for name, way in ways.items():
            start, done = time.perf_counter(), 0.0
            while not done or time.perf_counter() < start + seconds:
                done += way(tokens, start + seconds)
            rates[name].append(done / (time.perf_counter() - start))
    return {name: np.array(values) for name, values in rates.items()}


def share_of_matmul(ways: dict[str, Callable], dtype: str, tokens: Tokens, bert: BertModel, turns: int) -> list[float]:
    """Our rate over that of plain products, the two in turn for some cells each: the speed of a machine drifts."""
    shares, n_cells = [], len(tokens) if ways[f"{dtype} ours"].args[0].device.type == "cuda" else 4
    for turn in range(turns):
        some = tokens.take(np.arange(n_cells * turn, n_cells * (turn + 1)) % len(tokens))
        start, done = time.perf_counter(), 0.0
        ways[f"{dtype} ours"](some, start)
        middle = time.perf_counter()
        while not done or time.perf_counter() < middle + (middle - start):
            done += ways[f"{dtype} matmul"](some, time.perf_counter() + 0.1)
        gflop = flops_per_cell(bert, bert.config.num_hidden_layers - 1, some.lengths).sum() / 1e9
        shares.append(gflop / (middle - start) / (done / (time.perf_counter() - middle)))
    return shares


def contenders(
    shape: str, dtypes: list[str], batches: list[int], default: int, device: torch.device
) -> dict[str, Callable]:
    """Every way to be measured, by name."""
    torch.manual_seed(0)
    full = BertForMaskedLM(config(shape)).eval().to(device)
    genes = vocabulary(full.config.vocab_size, full.config.max_position_embeddings)
    ways: dict[str, Callable] = {f"reference {b}": partial(padded_way, full, b) for b in {*batches, default}}
    for name in dtypes:
        dtype = getattr(torch, name)
        encoders = [BertModel(config(shape), add_pooling_layer=False).eval() for _ in range(2)]
        for encoder in encoders:
            encoder.load_state_dict(full.bert.state_dict())
            encoder.to(device, dtype)
        ways[f"{name} ours"] = partial(packed_way, use_own_kernels(encoders[0]), genes)
        ways |= {f"{name} padded {b}": partial(padded_way, encoders[1], b) for b in batches}
        ways[f"{name} matmul"] = partial(matmul_way, products(shape, dtype, device))
    return ways


def best(rates: dict[str, np.ndarray], prefix: str) -> str:
    """The fastest of several batch sizes."""
    return max((name for name in rates if name.startswith(prefix)), key=lambda name: np.median(rates[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="V1-10M")
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--lengths", default="uniform", help="'uniform' (200 to the input size) or an h5ad with counts")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=12, help="comparisons with plain matrix products")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--device", type=torch.device, default="cpu")
    args = parser.parse_args()

    settings = config(args.shape)
    lengths = cell_lengths(args.lengths, args.cells, settings.max_position_embeddings)
    rng = np.random.default_rng(1)
    genes = np.arange(2, settings.vocab_size)
    tokens = Tokens.from_lists([rng.choice(genes, n, replace=False) for n in lengths])
    default = largest_that_fits(min(100, args.cells), args.shape, lengths, args.device)
    batches = [b for b in args.batches if b <= default]
    ways = contenders(args.shape, args.dtype, batches, default, args.device)
    rates = measure(ways, tokens, args.rounds, args.seconds)

    print(
        f"{args.shape}: {args.cells} cells of {lengths.min()} to {lengths.max()} tokens (mean {lengths.mean():.0f}), "
        f"{args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, values in rates.items():
        unit = "GFLOP/s" if "matmul" in name else "cells/s"
        print(f"  {name:22} {np.median(values):9.2f} {unit}  ({values.min():.2f} to {values.max():.2f})")
    reference = best(rates, "reference")
    bert = BertModel(settings)
    for name in args.dtype:
        ours, padded_best = rates[f"{name} ours"], best(rates, f"{name} padded")
        shares = share_of_matmul(ways, name, tokens, bert, args.turns)
        print(
            f"{name}: {np.median(shares):.0%} of matmul ({np.min(shares):.0%} to {np.max(shares):.0%}); "
            f"x {np.median(ours / rates[reference]):.1f} the {reference} (its best), "
            f"x {np.median(ours / rates[f'reference {default}']):.1f} the reference {default} (its default), "
            f"x {np.median(ours / rates[padded_best]):.1f} {padded_best} (its best)"
        )
    print(f"peak memory of all together {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
