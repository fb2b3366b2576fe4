"""Two time points beside one: held-out accuracy of classifiers of cells that read now, or now and before.

    python benchmarks/two_time_points.py FILE.h5ad --label cluster --time time --now D5 --before D2

No cell is measured twice. What stands for "before" is the mean of the `--neighbors` earlier cells that lie nearest in
30 principal components of log-normalised counts, the mean of each day taken off. The match uses no label; it does use
all cells, those held out as well. The same cells, splits, seeds and settings for:

- one: the leading genes now;
- two: as many genes now, and as many before, of the matched earlier cells;
- two, shuffled: the same, but every cell has the past of another: what a longer sequence does by itself;
- one, longer: as many genes now as "two" has at both times together.

Times are those of the processor, all threads together.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

import scgeneformer as gf


def with_past(adata: ad.AnnData, column: str, now: str, before: str, n_neighbors: int) -> ad.AnnData:
    """The cells of now, and in the layer "before" the mean counts of the earlier cells nearest to each."""
    space = adata.copy()
    sc.pp.normalize_total(space, target_sum=1e4)
    sc.pp.log1p(space)
    sc.pp.highly_variable_genes(space, n_top_genes=2000)
    late, early = (np.flatnonzero(adata.obs[column] == day) for day in (now, before))
    values = space.X[:, space.var["highly_variable"].to_numpy()].toarray()
    for day in (late, early):
        values[day] -= values[day].mean(axis=0)
    scores = sc.pp.pca(values[np.concatenate([late, early])], n_comps=30, random_state=0)
    finder = NearestNeighbors(n_neighbors=n_neighbors).fit(scores[len(late) :])
    nearest = finder.kneighbors(scores[: len(late)], return_distance=False)
    rows = np.repeat(np.arange(len(late)), n_neighbors)
    weights = sp.csr_matrix((np.full(nearest.size, 1 / n_neighbors), (rows, early[nearest.ravel()])))
    weights.resize(len(late), adata.n_obs)
    cells = adata[late].copy()
    cells.layers["before"] = (weights @ adata.X).tocsr().astype(np.float32)
    shuffled = np.random.default_rng(0).permutation(len(late))
    cells.layers["shuffled"] = cells.layers["before"][shuffled]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--label", required=True)
    parser.add_argument("--time", required=True)
    parser.add_argument("--now", required=True)
    parser.add_argument("--before", required=True)
    parser.add_argument("--neighbors", type=int, default=10)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--genes", type=int, default=256, help="of each time point")
    parser.add_argument("--blocks", type=int, help="of the model, from the first on")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()

    cells = with_past(ad.read_h5ad(args.file), args.time, args.now, args.before, args.neighbors)
    cells.obs[args.label] = cells.obs[args.label].cat.remove_unused_categories()
    kinds = {
        "one": (args.genes, None),
        "two": (2 * args.genes + 2, "before"),
        "two, shuffled": (2 * args.genes + 2, "shuffled"),
        "one, longer": (2 * args.genes, None),
    }
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for seed in args.seeds:
        gf.tl.split_cells(cells, args.label, fractions=(0.6, 0.0, 0.4), seed=seed)
        for kind, (max_tokens, layer) in kinds.items():
            start = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                trained = gf.tl.train_classifier(
                    cells,
                    args.label,
                    args.model,
                    out=f"{folder}/model",
                    split="geneformer_split",
                    seed=seed,
                    previous_layer=layer,
                    max_tokens=max_tokens,
                    epochs=args.epochs,
                    learning_rate=args.learning_rate,
                    num_layers=args.blocks,
                    dropout=0.0,
                )
            scores = trained.metrics["metrics"][args.label]["test"]
            found[kind].append((scores["accuracy"], scores["macro_f1"]))
            figures = f"accuracy {scores['accuracy']:.3f}, macro F1 {scores['macro_f1']:.3f}"
            print(f"seed {seed}, {kind}: {figures}, {time.process_time() - start:.0f} s", flush=True)
    for kind, rows in found.items():
        accuracy, f1 = ([row[i] for row in rows] for i in (0, 1))
        print(
            f"| {kind} | {statistics.mean(accuracy):.3f} ({min(accuracy):.3f} to {max(accuracy):.3f}) "
            f"| {statistics.mean(f1):.3f} ({min(f1):.3f} to {max(f1):.3f}) |"
        )


if __name__ == "__main__":
    main()
