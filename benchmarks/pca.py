"""Time and error of streamed PCA, beside scikit-learn's PCA of all cells at once.

    OMP_NUM_THREADS=1 python benchmarks/pca.py [--h5ad cells.h5ad] [--cells 200000] [--rounds 3]

Embeddings of the cells of a file (by default the 700 that come with the package) by `mini` unless it has them, the
same tiled with noise to `--cells` x 256, and the 2,000 most variable genes of the file. The error is that of the
reconstruction from 50 components, divided by the smallest there is; times are ratios of medians within this run.
"""

from __future__ import annotations

import argparse
import statistics
import time

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.decomposition import PCA

import scgeneformer as gf
from scgeneformer._engine.statistics.pca import METHODS

N_COMPS = 50


def left_over(rows: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> float:
    """Squared error of the reconstruction, block by block."""
    centered = (rows[i : i + 4096].astype(np.float64) - mean for i in range(0, len(rows), 4096))
    return sum(float((block**2).sum() - ((block @ axes) ** 2).sum()) for block in centered)


def seconds(function, *args, **kwargs) -> float:
    """Processor time, which other work on the machine changes little."""
    start = time.process_time()
    function(*args, **kwargs)
    return time.process_time() - start


def compare(title: str, adata: ad.AnnData, use_rep: str, rounds: int) -> None:
    stored = adata.X if use_rep == "X" else adata.obsm[use_rep]
    rows = stored.toarray() if hasattr(stored, "toarray") else stored
    solvers = {f"sklearn PCA, {name}": PCA(N_COMPS, svd_solver=name, random_state=0) for name in ("full", "auto")}
    times: dict[str, list[float]] = {}
    errors = {}
    for _ in range(rounds):
        for name, solver in solvers.items():
            times.setdefault(name, []).append(seconds(solver.fit_transform, rows))
            errors[name] = left_over(rows, solver.mean_, solver.components_.T)
        for method in METHODS:
            times.setdefault(method, []).append(seconds(gf.tl.pca, adata, use_rep, method=method, n_comps=N_COMPS))
            entry = adata.uns["pca" if use_rep == "X" else f"{use_rep}_pca"]
            axes = adata.varm["PCs"] if use_rep == "X" else entry["components"]
            errors[method] = left_over(rows, entry["mean"], axes)
    full, best = statistics.median(times["sklearn PCA, full"]), errors["sklearn PCA, full"]
    print(f"\n{title}: {rows.shape[0]:,} cells x {rows.shape[1]:,} features")
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"  {name:<18} {middle:8.2f} s  x {middle / full:.2f}  error x {errors[name] / best:.6f}")


def tiled(rows: np.ndarray, n: int, width: int = 256) -> np.ndarray:
    """Rows repeated with noise and turned into `width` features, float32."""
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(rows.shape[1], width)).astype(np.float32) / np.sqrt(width)
    found = np.empty((n, width), dtype=np.float32)
    spread = rows.std()
    for i in range(0, n, 4096):
        some = found[i : i + 4096]
        chosen = rows[rng.integers(0, len(rows), len(some))]
        some[:] = chosen @ turn + 0.1 * spread * rng.normal(size=some.shape)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--h5ad", help="cells with raw counts")
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    adata = sc.read_h5ad(args.h5ad) if args.h5ad else gf.datasets.pbmc68k()
    if "X_geneformer" not in adata.obsm:
        gf.tl.embed_cells(adata, model="mini")
    embedded = adata.obsm["X_geneformer"]
    compare("embeddings", adata, "X_geneformer", args.rounds)
    big = ad.AnnData(obsm={"X_geneformer": tiled(embedded[np.isfinite(embedded).all(axis=1)], args.cells)})
    compare("tiled embeddings", big, "X_geneformer", args.rounds)
    del big
    if args.h5ad:
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=min(2000, adata.n_vars))
    compare("genes", adata[:, adata.var["highly_variable"]].copy(), "X", args.rounds)


if __name__ == "__main__":
    main()
