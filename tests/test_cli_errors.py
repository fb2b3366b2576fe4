"""Errors on the command line name options, as they are typed there."""

from __future__ import annotations

import pytest
import scipy.sparse as sp
from toys import make_adata
from typer.testing import CliRunner

from scgeneformer.cli import app


@pytest.fixture
def file(tmp_path):
    adata = make_adata()
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.X = sp.csr_matrix(adata.X.toarray() - 1)
    adata.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "If they are elsewhere, say so: --counts-layer 'counts' or --use-raw."),
        (["--use-raw", "--counts-layer", "counts"], "--counts-layer 'counts' and --use-raw name two"),
        (["--counts-layer", "counts", "--groupby", "nope"], "--groupby 'nope' is no column of adata.obs"),
        (["--counts-layer", "counts", "--device", "abacus"], "--device 'abacus'"),
    ],
    ids=["counts", "both", "groupby", "device"],
)
def test_parameters_are_named_as_options(file, options, told):
    result = CliRunner().invoke(app, ["embed", str(file), "--in-place", "--model", "mini", *options])
    assert result.exit_code == 1
    assert told in result.stderr
