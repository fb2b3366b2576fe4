"""A million cells on disk: written, tokenised and embedded in blocks, with the memory that each step takes.

    python benchmarks/million.py cells.h5ad [--cells 1000000] [--embed 20000] [--folder DIR] [--tokens dataset|zarr]

Cells are made from those of the file: Poisson counts around the mean profile of two of its cells, with the total of one
of them, scaled so that the mean number of genes per cell is that of the file. They are written block by block as h5ad
(CSR, gzip). Then, in this process, which has loaded the model before, the commands

    scgeneformer tokenize cells.h5ad --out tokens.dataset        all cells
    scgeneformer embed sample.h5ad --out embedded.zarr           the first `--embed` cells, in a file of their own

Resident memory is sampled twice a second and drawn beside this script (million_memory.png). Pages of mapped files count
in it. Without `--folder` everything is in a temporary folder, which is removed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp
from anndata.io import sparse_dataset, write_elem
from scipy.optimize import brentq

import scgeneformer as gf
from scgeneformer.cli import app

ROWS = 5000
GB = 1e9


class Resampled:
    """Endless cells like those of a file; the same number gives the same cells."""

    def __init__(self, source: ad.AnnData) -> None:
        counts = sp.csr_matrix(source.X, dtype=np.float64)
        counts = counts[np.diff(counts.indptr) > 0]
        self.n_genes = np.diff(counts.indptr).mean()
        self.totals = np.asarray(counts.sum(axis=1)).ravel()
        self.profiles = sp.csr_matrix(sp.diags(1 / self.totals) @ counts)
        rates = self._rates(np.random.default_rng(0), 500)
        self.scale = brentq(lambda scale: -np.expm1(-scale * rates.data).sum() / 500 - self.n_genes, 1e-3, 1e3)

    def _rates(self, rng: np.random.Generator, n: int) -> sp.csr_matrix:
        one, other = rng.integers(len(self.totals), size=(2, n))
        return sp.csr_matrix(sp.diags(self.totals[one] / 2) @ (self.profiles[one] + self.profiles[other]))

    def block(self, number: int, n: int) -> sp.csr_matrix:
        """Counts of `n` cells."""
        rng = np.random.default_rng((1, number))
        cells = self._rates(rng, n)
        cells.data = rng.poisson(self.scale * cells.data).astype(np.float32)
        cells.eliminate_zeros()
        return cells


class Trace:
    """Resident memory of this process over time."""

    def __init__(self) -> None:
        self.process, self.start = psutil.Process(), time.perf_counter()
        self.times: list[float] = []
        self.gb: list[float] = []
        self.steps: list[tuple[str, float, float]] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.gb.append(self.process.memory_info().rss / GB)
            self.times.append(time.perf_counter() - self.start)
            time.sleep(0.5)

    @contextmanager
    def step(self, name: str, n_cells: int) -> Iterator[None]:
        """Say how fast a step was and what it took."""
        begin, before = time.perf_counter() - self.start, len(self.gb)
        moved = self._moved()
        first = self.process.memory_info().rss / GB
        yield
        end = time.perf_counter() - self.start
        peak = max([first, self.process.memory_info().rss / GB, *self.gb[before:]])
        self.steps.append((name, begin, end))
        read, written = ((after - was) / GB for after, was in zip(self._moved(), moved, strict=True))
        print(
            f"{name:10} {n_cells:>9,} cells  {end - begin:8.1f} s  {n_cells / (end - begin):10,.0f} cells/s  "
            f"memory {first:.2f} GB before, {peak:.2f} GB at most  files {read:.2f} GB read, {written:.2f} GB written",
            flush=True,
        )

    def _moved(self) -> tuple[int, int]:
        """Bytes read from files and written so far, whether the disk or its cache had them; 0 where nobody counts."""
        counters = getattr(self.process, "io_counters", lambda: None)()
        return (getattr(counters, "read_chars", 0), getattr(counters, "write_chars", 0))

    def draw(self, path: Path) -> None:
        """Draw it, with the steps."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel="minutes", ylabel="resident memory (GB)")
        n = min(len(self.times), len(self.gb))
        axes.plot(np.array(self.times[:n]) / 60, self.gb[:n], color="black", linewidth=1)
        for i, (name, begin, end) in enumerate(self.steps):
            axes.axvspan(begin / 60, end / 60, color=f"C{i}", alpha=0.2, label=name)
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right")
        figure.savefig(path, dpi=150)


def write(path: Path, cells: Resampled, var: pd.DataFrame, n_cells: int) -> None:
    """Write cells block by block; refuses if they will not fit on the disk."""
    first = cells.block(0, min(ROWS, n_cells))
    first.indptr = first.indptr.astype(np.int64)  # of all cells there may be more than 2^31 values
    ad.AnnData(first, var=var).write_h5ad(path, compression="gzip")
    expected = path.stat().st_size / first.shape[0] * n_cells
    print(f"{path.name}: {n_cells:,} cells in about {expected / GB:.2f} GB")
    if expected > shutil.disk_usage(path.parent).free:
        raise SystemExit(f"There is no room for {path}.")
    with h5py.File(path, "r+") as file:
        counts = sparse_dataset(file["X"])
        for number, start in enumerate(range(ROWS, n_cells, ROWS), 1):
            counts.append(cells.block(number, min(ROWS, n_cells - start)))
        names = pd.Index([f"cell{i:07d}" for i in range(n_cells)])
        batches = pd.Categorical.from_codes(np.arange(n_cells) // ROWS % 20, [f"batch {i}" for i in range(20)])
        write_elem(file, "obs", pd.DataFrame({"batch": batches}, index=names))


def size(path: Path) -> float:
    """GB on disk of a file or folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="h5ad with counts in X, such as pbmc3k")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--embed", type=int, default=20_000, help="cells that are embedded")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--tokens", choices=["dataset", "zarr", "h5ad"], default="dataset", help="kind of file")
    parser.add_argument("--folder", type=Path, help="keep the files here")
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_name("million_memory.png"))
    args = parser.parse_args()

    source = ad.read_h5ad(args.source)
    cells = Resampled(source)
    gf.settings.progress = False
    place = tempfile.TemporaryDirectory(prefix="million-") if args.folder is None else nullcontext(args.folder)
    with place as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        names = ("cells.h5ad", f"tokens.{args.tokens}", "sample.h5ad", "embedded.zarr")
        every, tokens, sample, embedded = files = [folder / name for name in names]
        print(f"{args.source.name}: {cells.n_genes:.0f} genes per cell, counts scaled by {cells.scale:.2f}")
        print(f"tokens of {args.cells:,} cells: up to {4 * cells.n_genes * args.cells / GB:.1f} GB")
        write(sample, cells, source.var, args.embed)
        gf.tl.embed_cells(source[:10].copy(), args.model)
        trace = Trace()
        with trace.step("write", args.cells):
            write(every, cells, source.var, args.cells)
        where = ["--model", args.model, "--overwrite"]
        with trace.step("tokenize", args.cells):
            app(["tokenize", str(every), "--out", str(tokens), *where], standalone_mode=False)
        with trace.step("embed", args.embed):
            app(["embed", str(sample), "--out", str(embedded), *where], standalone_mode=False)
        for path in files:
            print(f"{path.name:16} {size(path):6.2f} GB")
    trace.draw(args.figure)
    print(f"{args.figure}: {max(trace.gb):.2f} GB at most")


if __name__ == "__main__":
    main()
