"""Value bins beside rank values: speed, distance to scGPT's random draws, and models pretrained on the same cells.

Run as ``python benchmarks/value_bins.py cells.h5ad --label cell_type --epochs 10``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np

import scgeneformer as gf
from scgeneformer._adata.tokens import open_tokens

SEED = 42  # of the figures in the README
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def draws(values: np.ndarray, rng: np.random.Generator, n_bins: int = 51) -> np.ndarray:
    """Bins as scGPT's description draws them: anywhere between the quantiles that equal a value."""
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    last, below = np.searchsorted(edges, values, side="right"), np.searchsorted(edges, values, side="left")
    return np.ceil(last - rng.random(len(values)) * (last - below)).astype(int)


def speed(adata: ad.AnnData, vocabulary, seconds: float = 3.0) -> float:
    """Cells encoded per second."""
    tokens = open_tokens(adata, vocabulary, stored=False)
    n, start = 0, None
    while start is None or time.perf_counter() - start < seconds:
        for _ in tokens.blocks():
            pass
        n, start = (0, time.perf_counter()) if start is None else (n + adata.n_obs, start)  # the first round compiles
    return n / (time.perf_counter() - start)


def speed_in_numpy(adata: ad.AnnData) -> float:
    """Cells per second of :func:`draws`, one cell at a time."""
    rng, cells = np.random.default_rng(0), [row[row > 0] for row in adata.X[:300].toarray()]
    start = time.perf_counter()
    for values in cells:
        draws(values, rng)
    return len(cells) / (time.perf_counter() - start)


def distances(adata: ad.AnnData, vocabulary) -> dict[str, float]:
    """Mean difference in bins from one draw: of another draw, of the middle (ours), and of the last bin."""
    rng, found = np.random.default_rng(0), {"another draw": [], "middle": [], "last": []}
    some = adata[:: max(1, adata.n_obs // 200), open_tokens(adata, vocabulary).genes.tokens >= 0].copy()
    tokens = open_tokens(some, vocabulary, stored=False)
    binned = next(tokens.blocks())[1]
    for i, row in enumerate(some.X.toarray()):
        at = np.flatnonzero(row > 0)
        values, one = row[at], draws(row[at], rng)
        bins = np.zeros(vocabulary.n_tokens, dtype=int)
        bins[binned[i]] = binned.positions[binned.offsets[i] : binned.offsets[i + 1]]
        last = np.searchsorted(np.quantile(values, np.linspace(0, 1, 50)), values, side="right")
        for name, other in zip(found, (draws(values, rng), bins[tokens.genes.tokens[at]], last), strict=True):
            found[name].append(np.abs(other - one))
    return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--input-size", type=int, default=512)
    parser.add_argument("--rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    adata = ad.read_h5ad(arguments.file)
    statistics = gf.models.gene_statistics(adata)
    whole = gf.models.build_vocabulary(statistics, min_cells=20, input_size=20_000, encoding=gf.models.ValueBinned())
    print("distances in bins", distances(adata, whole))
    keys = []
    for encoding in (None, gf.models.ValueBinned()):
        settings = {"min_cells": 20, "input_size": arguments.input_size, "encoding": encoding}
        vocabulary = gf.models.build_vocabulary(statistics, **settings)
        name = vocabulary.encoding.name.replace("-", "_")
        print(name, f"{speed(adata, vocabulary):,.0f} cells/s")
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            trained = gf.tl.pretrain(
                adata,
                vocabulary=vocabulary,
                config=SMALL,
                out=Path(folder) / "m",
                learning_rate=arguments.rate,
                batch_size=16,
                epochs=arguments.epochs,
                fractions=(0.9, 0.1, 0.0),
                seed=SEED,
            )
            print(name, f"{time.perf_counter() - start:.0f} s", trained.metrics["metrics"]["validation"])
            for pooling in ("mean", "cls"):
                keys.append(f"X_{name}_{pooling}")
                gf.tl.embed_cells(adata, trained, layer=-1, pooling=pooling, key_added=keys[-1])
    print("numpy", f"{speed_in_numpy(adata):,.0f} cells/s")
    if arguments.label in adata.obs:
        gf.tl.probe(adata, arguments.label, use_rep=keys, seed=SEED)
        print(gf.get.classification_df(adata, arguments.label)[["balanced_accuracy", "macro_f1"]])


if __name__ == "__main__":
    main()
