"""Host memory of an embedding from a file does not grow with the number of cells, however it is stored and opened."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from toys import make_model

import scgeneformer as gf

N_GENES, PER_CELL = 2000, 150
STATUS = Path("/proc/self/status")
needs_status = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc/self/status")

PEAK = """
import atexit, gc
atexit.register(gc.freeze)  # ends at once

def peak():  # of this process since the last reset; what getrusage tells begins with that of its parent
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def reset_peak():
    open("/proc/self/clear_refs", "w").write("5")
"""


def peaks_of(code: str, *arguments: object) -> list[int]:
    """What a new process prints: peaks in bytes."""
    command = [sys.executable, "-W", "ignore", "-c", PEAK + code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [*map(int, run.stdout.split())]


RUN = """
import sys
from contextlib import ExitStack
from pathlib import Path
import anndata as ad, numpy as np
import scgeneformer as gf
from scgeneformer._adata.disk import files
from scgeneformer._adata import row_groups

gf.settings.progress = False
row_groups.GROUP_BYTES = 4 * 2**20  # small beside the files
_, model, first, how, layer, *paths = sys.argv
with ExitStack() as stack:
    openers = {
        "backed": lambda path: ad.read_h5ad(path, backed="r"),
        "commands": lambda path: stack.enter_context(files.opened(Path(path))),
        "lazily": lambda path: ad.experimental.read_lazy(path),
    }
    model = gf.models.load(model, device="cpu")

    def embed(path):
        adata = openers[how](path)
        gf.tl.embed_cells(adata, model, layer=int(layer))
        found = np.asarray(adata.obsm["X_geneformer"])
        assert found.shape == (adata.n_obs, 16)
        return found.nbytes

    embed(first)  # compiles, fills the allocator's pools
    for path in paths:
        reset_peak()
        print(-embed(path) + peak())
"""


def write_cells(path: Path, n_cells: int, kind: str) -> Path:
    """Cells of PER_CELL genes with a count, as CSR or CSC, in h5ad or zarr."""
    rng = np.random.default_rng(0)
    rows = np.stack([np.sort(rng.choice(N_GENES, PER_CELL, replace=False)) for _ in range(100)]).astype(np.int32)
    indices = rows[np.arange(n_cells) % 100].ravel()
    counts = sp.csr_matrix(
        (np.ones(len(indices), np.float32), indices, np.arange(n_cells + 1) * PER_CELL), shape=(n_cells, N_GENES)
    )
    adata = ad.AnnData(counts.asformat(kind), var=pd.DataFrame(index=[f"G{i}" for i in range(N_GENES)]))
    adata.write_zarr(path) if path.suffix == ".zarr" else adata.write_h5ad(path)
    return path


@needs_status
@pytest.mark.parametrize(
    ("suffix", "kind", "how", "layer"),
    [
        ("h5ad", "csr", "backed", 0),
        pytest.param("h5ad", "csr", "backed", -2, marks=pytest.mark.long),
        pytest.param("h5ad", "csc", "backed", -2, marks=pytest.mark.long),
        pytest.param("zarr", "csr", "commands", -2, marks=pytest.mark.long),
        pytest.param("zarr", "csr", "lazily", -2, marks=pytest.mark.long),
    ],
)
def test_peak_memory_is_the_same_for_20_000_and_100_000_cells(tmp_path, suffix, kind, how, layer):
    if how == "lazily":
        pytest.importorskip("xarray")
    model = make_model(n_genes=N_GENES, input_size=32, n_blocks=2)
    gf.models.save(model, tmp_path / "model")
    first = write_cells(tmp_path / f"first.{suffix}", 5_000, kind)
    paths = [write_cells(tmp_path / f"{n}.{suffix}", n, kind) for n in (20_000, 100_000)]
    few, many = peaks_of(RUN, tmp_path / "model", first, how, layer, *paths)
    assert many == pytest.approx(few, rel=0.1)


PCA = """
import sys
import anndata as ad, h5py, numpy as np, pandas as pd
import scgeneformer as gf

from scgeneformer._engine.statistics import pca

gf.settings.progress = False
pca.BLOCK_BYTES = 4 * 2**20  # small beside the files

def reduce(path):
    with h5py.File(path) as file:
        obs = pd.DataFrame(index=np.arange(len(file["rows"])).astype(str))
        adata = ad.AnnData(obs=obs, obsm={"rows": file["rows"]})
        reset_peak()
        before = peak()
        for method in ("incremental", "probabilistic"):
            gf.tl.pca(adata, "rows", method=method, n_comps=32, key_added=method)
        return peak() - before - 2 * adata.obsm["incremental"].nbytes

first, *paths = sys.argv[1:]
reduce(first)  # compiles, fills the allocator's pools
for path in paths:
    print(reduce(path))
"""


@needs_status
def test_peak_memory_of_pca_does_not_grow_from_10_000_to_40_000_cells(tmp_path):
    import h5py

    block = np.random.default_rng(0).normal(size=(5_000, 256)).astype(np.float32)
    paths = []
    for n_cells in (5_000, 10_000, 40_000):
        paths.append(tmp_path / f"{n_cells}.h5")
        with h5py.File(paths[-1], "w") as file:
            rows = file.create_dataset("rows", (n_cells, 256), np.float32)
            for start in range(0, n_cells, len(block)):
                rows[start : start + len(block)] = block
    few, many = peaks_of(PCA, *paths)
    assert many < few + 4 * 256 * 15_000  # half of what the rows that are more would take
