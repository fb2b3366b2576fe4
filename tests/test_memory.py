"""Host memory of an embedding from a backed file does not grow with the number of cells."""

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

RUN = """
import resource, sys
import anndata as ad
import scgeneformer as gf

gf.settings.progress = False
model = gf.models.load(sys.argv[1], device="cpu")
gf.tl.embed_cells(ad.read_h5ad(sys.argv[3], backed="r"), model)  # compiles, fills the allocator's pools
adata = ad.read_h5ad(sys.argv[2], backed="r")
gf.tl.embed_cells(adata, model)
assert adata.obsm["X_geneformer"].shape == (adata.n_obs, 16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - adata.obsm["X_geneformer"].nbytes)
"""


def write_cells(path: Path, n_cells: int) -> Path:
    """Cells of PER_CELL genes with a count."""
    rng = np.random.default_rng(0)
    rows = np.stack([np.sort(rng.choice(N_GENES, PER_CELL, replace=False)) for _ in range(100)]).astype(np.int32)
    indices = rows[np.arange(n_cells) % 100].ravel()
    counts = sp.csr_matrix(
        (np.ones(len(indices), np.float32), indices, np.arange(n_cells + 1) * PER_CELL), shape=(n_cells, N_GENES)
    )
    ad.AnnData(counts, var=pd.DataFrame(index=[f"G{i}" for i in range(N_GENES)])).write_h5ad(path)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource.getrusage")
def test_peak_memory_is_the_same_for_20_000_and_100_000_cells(tmp_path):
    model = make_model(n_genes=N_GENES, input_size=64, n_blocks=2)
    gf.models.save(model, tmp_path / "model")
    first = write_cells(tmp_path / "first.h5ad", 5_000)
    peaks = []
    for n_cells in (20_000, 100_000):
        path = write_cells(tmp_path / f"{n_cells}.h5ad", n_cells)
        run = subprocess.run(
            [sys.executable, "-c", RUN, tmp_path / "model", path, first], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        peaks.append(int(run.stdout))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)


PCA = """
import resource, sys
import anndata as ad, h5py, numpy as np, pandas as pd
import scgeneformer as gf

gf.settings.progress = False
with h5py.File(sys.argv[1]) as file:
    adata = ad.AnnData(obs=pd.DataFrame(index=np.arange(len(file["rows"])).astype(str)), obsm={"rows": file["rows"]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for method in ("incremental", "probabilistic"):
        gf.tl.pca(adata, "rows", method=method, n_comps=32, key_added=method)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - 2 * adata.obsm["incremental"].nbytes)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource.getrusage")
def test_peak_memory_of_pca_does_not_grow_from_40_000_to_120_000_cells(tmp_path):
    import h5py

    block = np.random.default_rng(0).normal(size=(20_000, 256)).astype(np.float32)
    peaks = []
    for n_cells in (40_000, 120_000):
        with h5py.File(tmp_path / f"{n_cells}.h5", "w") as file:
            rows = file.create_dataset("rows", (n_cells, 256), np.float32)
            for start in range(0, n_cells, len(block)):
                rows[start : start + len(block)] = block
        run = subprocess.run(
            [sys.executable, "-c", PCA, tmp_path / f"{n_cells}.h5"], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        peaks.append(int(run.stdout))
    assert peaks[1] < peaks[0] + 4 * 256 * 40_000  # half of what the rows that are more would take
