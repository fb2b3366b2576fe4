"""Commands that write or read folders of tokens."""

import anndata as ad
import numpy as np
import pytest
from typer.testing import CliRunner

import scgeneformer as gf
from scgeneformer.cli import app

pytest.importorskip("pyarrow")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_tokens_are_written_and_embedded(tmp_path, suffix):
    cells = gf.datasets.pbmc68k()[:5].copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    tokens, out = tmp_path / "cells.dataset", tmp_path / f"out.{suffix}"
    result = call("tokenize", tmp_path / "cells.h5ad", "--out", tokens, "--model", "mini")
    assert result.exit_code == 0, result.output
    again = call("tokenize", tmp_path / "cells.h5ad", "--out", tokens, "--model", "mini")
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    result = call("embed", tokens, "--out", out, "--model", "mini", "--groupby", "cell_type")
    assert result.exit_code == 0, result.output
    found = getattr(ad, f"read_{suffix}")(out)
    gf.tl.embed_cells(cells, "mini")
    np.testing.assert_allclose(found.obsm["X_geneformer"], cells.obsm["X_geneformer"], rtol=0, atol=1e-6)
    assert found.obs_names.tolist() == cells.obs_names.tolist()
    again = call("embed", tokens, "--out", out, "--model", "mini")
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)


def test_results_do_not_go_into_a_folder_of_tokens(tmp_path):
    result = call("embed", tmp_path / "cells.dataset", "--in-place", "--model", "mini")
    assert result.exit_code == 2
    assert "name a new file, --out NEWFILE.h5ad" in " ".join(result.stderr.replace("│", " ").split())
