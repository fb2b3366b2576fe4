"""Cells per second of the rank-value encoding, beside a loop over cells in numpy (the reference's way).

    python benchmarks/rank.py [--cells 20000] [--genes 2300]

Both run in this process on the same synthetic counts, the kernel and the loop in turn; the best of three is printed.
The first call is told apart; it compiles, as after an installation, where NUMBA_CACHE_DIR names an empty folder.
"""

from __future__ import annotations

import argparse
import time

import numba
import numpy as np
import scipy.sparse as sp

from scgeneformer._engine.ranking import rank_value_encode
from scgeneformer._engine.vocabulary import Vocabulary

N_VARS = 20_000
BLOCK = 2048  # cells per call, as the door reads them


def synthetic_counts(n_cells: int, n_genes: int) -> sp.csr_matrix:
    """Counts with `n_genes` expressed genes per cell and many small values, as in real cells."""
    rng = np.random.default_rng(0)
    patterns = np.stack([np.sort(rng.choice(N_VARS, n_genes, replace=False)) for _ in range(200)])
    indices = patterns[np.arange(n_cells) % 200].ravel().astype(np.int32)
    data = rng.geometric(0.4, n_cells * n_genes).astype(np.float32)
    return sp.csr_matrix((data, indices, np.arange(n_cells + 1) * n_genes), shape=(n_cells, N_VARS))


def vocabulary() -> Vocabulary:
    rng = np.random.default_rng(1)
    return Vocabulary(
        tokens=np.arange(2, N_VARS + 2, dtype=np.int32),
        ensembl_ids=np.arange(N_VARS).astype(str),
        symbols=np.full(N_VARS, ""),
        medians=rng.lognormal(0.5, 0.7, N_VARS),
        special={"<pad>": 0, "<mask>": 1},
        input_size=4096,
    )


def numpy_loop(counts: sp.csr_matrix, genes: Vocabulary) -> list[np.ndarray]:
    """Normalise, divide by the medians and argsort, one cell at a time."""
    encoded = []
    for cell in range(counts.shape[0]):
        part = slice(counts.indptr[cell], counts.indptr[cell + 1])
        columns, data = counts.indices[part], counts.data[part].astype(np.float64)
        values = data / data.sum() * 10_000 / genes.medians[columns]
        encoded.append(genes.tokens[columns[np.argsort(-values, kind="stable")]][: genes.input_size])
    return encoded


def best_of(n: int, function, *args) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2300)
    args = parser.parse_args()
    genes = vocabulary()
    counts = synthetic_counts(args.cells, args.genes)
    blocks = [counts[i : i + BLOCK] for i in range(0, args.cells, BLOCK)]
    few = counts[: max(1, args.cells // 10)]

    def kernel() -> None:
        for block in blocks:
            rank_value_encode(block, genes.tokens, genes)

    start = time.perf_counter()
    rank_value_encode(few, genes.tokens, genes)
    first = time.perf_counter() - start
    kernel()
    tokens, _ = rank_value_encode(few, genes.tokens, genes)
    same = all(np.array_equal(tokens[i], cell) for i, cell in enumerate(numpy_loop(few, genes)))
    fast, slow = args.cells / best_of(3, kernel), few.shape[0] / best_of(3, numpy_loop, few, genes)
    print(f"{args.cells:,} cells of {args.genes:,} expressed genes, {numba.config.NUMBA_NUM_THREADS} threads")
    print(f"first call  {first:>10.1f} s")
    print(f"kernel      {fast:>10,.0f} cells/s")
    print(f"numpy loop  {slow:>10,.0f} cells/s")
    print(f"ratio       {fast / slow:>10.1f}   tokens equal up to rounding: {same}")


if __name__ == "__main__":
    main()
