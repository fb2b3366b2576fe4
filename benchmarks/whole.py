"""What `gf.tl.embed_cells` takes from counts to `obsm`, beside the engine alone on tokens that were made before.

    python benchmarks/whole.py cells.h5ad [--shape V1-10M] [--cells 5000] [--device cuda]

Random weights of the shape with the genes of `mini`; the cells of the file, over and over, up to `--cells`. In turn, in
one process, `--rounds` rounds after one that warms up; ratios are medians of the ratios within a round:

- engine: tokens in memory, cell embeddings as they come from the device;
- counts in memory: sparse counts to `obsm`, all checks, tokenising (one block ahead, in a thread) and writing included;
- counts in a file: the same from an h5ad file that is opened "backed", uncompressed;
- tokens stored: the same after `gf.tl.tokenize`, whose tokens are checked against the counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from embed import SHAPES, config, wait_for
from transformers import BertModel

import scgeneformer as gf
from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.device import resolve_device, resolve_dtype
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.pooling import pool_mean
from scgeneformer._engine.tokens import Tokens
from scgeneformer.models import Model


def random_model(shape: str, device: torch.device, dtype: str) -> Model:
    """Weights of the shape, genes of `mini`."""
    genes = gf.models.load("mini", device="cpu").vocabulary
    torch.manual_seed(0)
    bert = use_own_kernels(BertModel(config(shape), add_pooling_layer=False).eval()).requires_grad_(False)
    numbers = resolve_dtype(dtype, device)
    return Model(shape, "random", "", "0" * 64, genes, bert.to(device, numbers), device, numbers, Path())


def engine(model: Model, tokens: Tokens) -> None:
    """The model over tokens, cell by cell embeddings on the host."""
    bert, layer = model.bert, model.n_blocks - 1
    budget = choose_tokens_per_batch(bert, None)
    embed_cells([(0, tokens)], len(tokens), [bert], model.vocabulary, [layer], pool_mean, budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--shape", choices=SHAPES, default="V1-10M")
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    args = parser.parse_args()

    gf.settings.progress = False
    device = resolve_device(args.device)
    model = random_model(args.shape, device, args.dtype)
    source = ad.read_h5ad(args.file)
    adata = source[np.arange(args.cells) % source.n_obs].copy()
    adata.obs_names_make_unique()
    with tempfile.TemporaryDirectory() as folder:
        adata.write_h5ad(Path(folder) / "cells.h5ad")
        backed = ad.read_h5ad(Path(folder) / "cells.h5ad", backed="r")
        stored = gf.tl.tokenize(adata, model=model, copy=True)
        tokens = Tokens.from_padded(np.asarray(stored.obsm["geneformer_tokens"]))
        ways: dict[str, Callable[[], object]] = {
            "engine": lambda: engine(model, tokens),
            "counts in memory": lambda: gf.tl.embed_cells(adata, model),
            "counts in a file": lambda: gf.tl.embed_cells(backed, model),
            "tokens stored": lambda: gf.tl.embed_cells(stored, model),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(args.rounds + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                wait_for(device)
                if turn:
                    seconds[name].append(time.perf_counter() - start)

    lengths = tokens.lengths
    print(
        f"{args.shape}: {len(lengths)} cells of {lengths.min()} to {lengths.max()} tokens (mean {lengths.mean():.0f}), "
        f"{model.dtype}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, values in seconds.items():
        ratios = np.array(values) / np.array(seconds["engine"])
        print(
            f"  {name:18} {len(lengths) / np.median(values):9.1f} cells/s   "
            f"{np.median(ratios):.2f} times the engine ({ratios.min():.2f} to {ratios.max():.2f})"
        )


if __name__ == "__main__":
    main()
