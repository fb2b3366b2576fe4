"""Cost of a deletion scan beside embedding the same cells and beside the reference's way.

    python benchmarks/perturb.py [--shape V1-10M] [--lengths uniform|FILE.h5ad] [--cells 4] [--genes 64]

Of every cell, `--genes` genes are deleted one by one (all of them cost alike). All ways run in this process on the same
cells with the same random weights, in turn, `--rounds` times; ratios are medians of the ratios within a round.

- scan: the exact scan, the unperturbed cell and the comparison of all genes included, hidden layer -2;
- embedding: the cell itself, once for each perturbation, packed, mean pooling;
- reference: the perturbed sequences in padded batches through `BertForMaskedLM` in float32 (SDPA, all hidden states and
  the logits), cosines of all genes with the unperturbed cell; at its best batch size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from embed import SHAPES, cell_lengths, config, vocabulary
from transformers import BertForMaskedLM, BertModel

from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.device import matmul_precision, resolve_dtype
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.perturbation.perturbed_cells import Plan, cut_blocks
from scgeneformer._engine.perturbation.scan import scan
from scgeneformer._engine.perturbation.shifts import Asked
from scgeneformer._engine.pooling import pool_mean
from scgeneformer._engine.tokens import Tokens
from scgeneformer._engine.vocabulary import Vocabulary

Cell = tuple[np.ndarray, np.ndarray]  # its genes, and those that are deleted


def scan_way(bert: BertModel, genes: Vocabulary, cells: list[Cell], layer: int) -> int:
    """Our scan, cell by cell."""
    done = 0
    for ids, targets in cells:
        blocks = cut_blocks([(0, ids, np.empty(0))], Plan("delete", targets), genes)
        found: list[int] = []
        scan(
            blocks,
            Plan("delete", targets),
            genes,
            [bert],
            [layer],
            choose_tokens_per_batch(bert, None),
            Asked("genes"),
            lambda block, results, found=found: found.append(len(results["cell"])),
        )
        done += sum(found)
    return done


def embedding_way(bert: BertModel, genes: Vocabulary, cells: list[Cell], layer: int) -> int:
    """The same cells as they are, as many times."""
    for ids, targets in cells:
        tokens = Tokens.from_lists([ids] * len(targets))
        embed_cells([(0, tokens)], len(tokens), [bert], genes, [layer], pool_mean, choose_tokens_per_batch(bert, None))
    return sum(len(targets) for _, targets in cells)


def reference_way(model: BertForMaskedLM, batch: int, cells: list[Cell]) -> int:
    """Every gene before and after, in batches of perturbed cells through the whole model."""
    done = 0
    for ids, targets in cells:
        with torch.inference_mode():
            whole = torch.from_numpy(ids.astype(np.int64)).to(model.device)
            before = model(whole[None], output_hidden_states=True).hidden_states[-2][0]
            places = np.flatnonzero(np.isin(ids, targets))
            for start in range(0, len(places), batch):
                some = places[start : start + batch]
                keep = torch.from_numpy(np.stack([np.delete(np.arange(len(ids)), p) for p in some])).to(model.device)
                mask = torch.ones_like(keep)
                states = model(whole[keep], attention_mask=mask, output_hidden_states=True).hidden_states[-2]
                torch.nn.functional.cosine_similarity(states, before[keep], dim=2).mean(dim=1).cpu()
                done += len(some)
    return done


def measure(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, np.ndarray]:
    """Perturbations per second of each way in each round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            n = way()
            if turn:  # the first one warms up
                rates[name].append(n / (time.perf_counter() - start))
    return {name: np.array(values) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="V1-10M")
    parser.add_argument("--lengths", default="uniform")
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--genes", type=int, default=48)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="of our ways; 'tf32' on CUDA")
    parser.add_argument("--device", type=torch.device, default="cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    settings = config(args.shape)
    full = BertForMaskedLM(settings).eval().to(args.device)
    bert = use_own_kernels(BertModel(config(args.shape), add_pooling_layer=False).eval())
    bert.load_state_dict(full.bert.state_dict())
    bert.to(args.device, resolve_dtype(args.dtype, args.device))
    genes, layer = vocabulary(settings.vocab_size, settings.max_position_embeddings), settings.num_hidden_layers - 1
    rng = np.random.default_rng(1)
    cells = []
    for n in cell_lengths(args.lengths, args.cells, settings.max_position_embeddings):
        ids = rng.choice(np.arange(2, settings.vocab_size), n, replace=False).astype(np.int32)
        cells.append((ids, np.sort(rng.choice(ids, min(args.genes, n), replace=False))))

    def ours(way: Callable[..., int]) -> int:
        with matmul_precision(args.dtype):
            return way(bert, genes, cells, layer)

    ways: dict[str, Callable[[], int]] = {"scan": partial(ours, scan_way), "embedding": partial(ours, embedding_way)}
    ways |= {f"reference {b}": lambda b=b: reference_way(full, b, cells) for b in args.batches}
    rates = measure(ways, args.rounds)
    lengths = ", ".join(str(len(ids)) for ids, _ in cells)
    print(f"{args.shape}, {args.dtype}, {args.device}, {torch.get_num_threads()} threads; cells of {lengths} genes")
    for name, values in rates.items():
        print(f"  {name:14} {np.median(values):8.2f} perturbations/s  ({values.min():.2f} to {values.max():.2f})")
    best = max((name for name in rates if "reference" in name), key=lambda name: np.median(rates[name]))
    print(f"one perturbation costs {np.median(rates['embedding'] / rates['scan']):.2f} x an embedding of the cell")
    print(f"the scan is {np.median(rates['scan'] / rates[best]):.1f} x as fast as the {best} (its best)")


if __name__ == "__main__":
    main()
