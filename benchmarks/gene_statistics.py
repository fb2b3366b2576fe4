"""Gene medians: cells per second and errors, beside t-digests, one for each gene, of libraries that are installed.

    python benchmarks/gene_statistics.py cells.h5ad [--tile 20] [--slow 100]

Processor time of this process, on counts in memory: all cells `--tile` times over through `GeneStream`, exact and
rounded; the same cells once through t-digests that are given the values of a gene in each block of 256 cells, and
`--slow` cells through t-digests that are given each value by itself. Then errors of medians beside numpy's: of the
file, and of random matrices of whole numbers. Install what to compare: pip install crick datasketches fastdigest
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import scipy.sparse as sp

from scgeneformer import models
from scgeneformer._engine.statistics.gene_stream import GeneStream

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK, TARGET = 2048, 1e4
ENDLESS = 10**12


class Digest(NamedTuple):
    """How a library makes a t-digest, adds an array and a number, and gives a quantile."""

    library: str
    make: Callable[[Any], Any]
    add_array: Callable[[Any, np.ndarray], Any]
    add_number: Callable[[Any, float], Any]
    median: Callable[[Any], float]


DIGESTS = (
    Digest("crick", lambda m: m.TDigest(), lambda d, v: d.update(v), lambda d, v: d.add(v), lambda d: d.quantile(0.5)),
    Digest(
        "datasketches",
        lambda m: m.tdigest_double(),
        lambda d, v: d.update(v),
        lambda d, v: d.update(v),
        lambda d: d.get_quantile(0.5),
    ),
    Digest(
        "fastdigest",
        lambda m: m.TDigest(),
        lambda d, v: d.batch_update(v),
        lambda d, v: d.update(v),
        lambda d: d.median(),
    ),
)


def installed() -> list[tuple[Digest, Any]]:
    found = []
    for digest in DIGESTS:
        try:
            found.append((digest, importlib.import_module(digest.library)))
        except ImportError:
            print(f"({digest.library} is not installed)")
    return found


def normalised(counts: sp.csr_matrix) -> sp.csr_matrix:
    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    return (sp.diags(TARGET / np.where(total > 0, total, 1)) @ counts.astype(np.float64)).tocsr()


def exact_medians(counts: sp.csr_matrix) -> np.ndarray:
    columns = normalised(counts).tocsc()
    parts = np.split(columns.data, columns.indptr[1:-1])
    return np.array([np.median(part) if len(part) else np.nan for part in parts])


def ours(counts: sp.csr_matrix, max_values: int, tile: int = 1) -> np.ndarray:
    stream = GeneStream(np.arange(counts.shape[1]), counts.shape[1], TARGET, max_values)
    for _ in range(tile):
        for start in range(0, counts.shape[0], BLOCK):
            stream.add(counts[start : start + BLOCK])
    stream.values.settle()
    return stream.values.medians(counts.shape[1])


def by_arrays(counts: sp.csr_matrix, digest: Digest, module: Any) -> np.ndarray:
    digests: dict[int, Any] = {}
    for start in range(0, counts.shape[0], 256):
        block = normalised(counts[start : start + 256]).tocsc()
        for gene in np.flatnonzero(np.diff(block.indptr)).tolist():
            one = digests.get(gene) or digests.setdefault(gene, digest.make(module))
            digest.add_array(one, block.data[block.indptr[gene] : block.indptr[gene + 1]])
    return medians_of(digests, digest, counts.shape[1])


def by_numbers(counts: sp.csr_matrix, digest: Digest, module: Any) -> np.ndarray:
    digests: dict[int, Any] = {}
    scaled = normalised(counts)
    for gene, value in zip(scaled.indices.tolist(), scaled.data.tolist(), strict=True):
        one = digests.get(gene) or digests.setdefault(gene, digest.make(module))
        digest.add_number(one, value)
    return medians_of(digests, digest, counts.shape[1])


def medians_of(digests: dict[int, Any], digest: Digest, n_genes: int) -> np.ndarray:
    found = np.full(n_genes, np.nan)
    for gene, one in digests.items():
        found[gene] = digest.median(one)
    return found


def timed(function: Callable[..., np.ndarray], *args: Any) -> tuple[float, np.ndarray]:
    start = time.process_time()
    found = function(*args)
    return time.process_time() - start, found


def error(found: np.ndarray, exact: np.ndarray) -> str:
    off = np.abs(found / exact - 1)[~np.isnan(exact)]
    return f"largest error {off.max():8.3%}, more than 1 % off {np.mean(off > 0.01):6.1%}"


def random_matrices(median: Callable[[sp.csr_matrix], np.ndarray], n: int, n_cells: int) -> str:
    """Errors over `n` matrices of 5 genes, of few and of many different counts."""
    rng = np.random.default_rng(0)
    found, exact = [], []
    for i in range(n):
        counts = sp.csr_matrix(rng.integers(0, (2, 10, 100)[i % 3] + 1, (n_cells, 5)).astype(np.float64))
        found.append(median(counts))
        exact.append(exact_medians(counts))
    return error(np.concatenate(found), np.concatenate(exact))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--tile", type=int, default=20)
    parser.add_argument("--slow", type=int, default=100)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    counts = sp.csr_matrix(ad.read_h5ad(args.file).X).astype(np.float32)
    n, exact = counts.shape[0], exact_medians(counts)
    ours(counts, ENDLESS)
    ours(counts, 0)  # compiled
    print(
        f"{n:,} cells, {counts.shape[1]:,} genes, {counts.nnz / n:,.0f} with a count per cell; {args.tile} times over"
    )
    rates = {}
    for name, most in (("ours, exact", ENDLESS), ("ours, rounded", 0)):
        seconds, found = timed(ours, counts, most, args.tile)
        rates[name] = n * args.tile / seconds
        print(f"{name:30s} {rates[name]:>10,.0f} cells/s                {error(found, exact)}")
    libraries = installed()
    for digest, module in libraries:
        for name, function, part in (
            (f"{digest.library}, arrays", by_arrays, counts),
            (f"{digest.library}, numbers", by_numbers, counts[: args.slow]),
        ):
            seconds, found = timed(function, part, digest, module)
            rate = part.shape[0] / seconds
            off = error(found, exact) if part is counts else ""
            print(f"{name:30s} {rate:>10,.0f} cells/s, ours x {rates['ours, exact'] / rate:6.1f}  {off}")
    seconds, _ = timed(lambda: models.gene_statistics(args.file).median)
    print(f"{'ours, from the file':30s} {n / seconds:>10,.0f} cells/s")
    for size in ((300, 1000), (12, 100_000)):
        print("\n{} random matrices of {:,} x 5".format(*size))
        print(f"{'ours, exact':30s} {random_matrices(lambda m: ours(m, ENDLESS), *size)}")
        print(f"{'ours, rounded':30s} {random_matrices(lambda m: ours(m, 0), *size)}")
        for digest, module in libraries:
            found = random_matrices(lambda m, d=digest, lib=module: by_arrays(m, d, lib), *size)
            print(f"{digest.library:30s} {found}")


if __name__ == "__main__":
    main()
