"""Sparse matrices whose indices lie beyond their shape are refused; scipy would read and write beyond its arrays."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from toys import make_adata

import scgeneformer as gf
from scgeneformer._adata import row_groups
from scgeneformer._adata.sound import rows_of, sound
from scgeneformer._errors import DataError

WRONG = {"beyond": 99_999_999, "just beyond": 40, "negative": -1}


def damaged(form: str, index: int, dtype: type = np.int32) -> ad.AnnData:
    adata = make_adata(40, 40)
    adata.X = adata.X.asformat(form)
    adata.X.indices = adata.X.indices.astype(dtype)
    adata.X.indices[5] = index
    return adata


def in_memory(adata, tmp_path):
    return adata


def backed(adata, tmp_path):
    index, adata.X.indices[5] = adata.X.indices[5], adata.X.indices[4]
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][5] = index
    return ad.read_h5ad(tmp_path / "a.h5ad", backed="r")


def chunked(adata, tmp_path):
    da = pytest.importorskip("dask.array")
    adata.X = da.from_delayed(pytest.importorskip("dask").delayed(adata.X), adata.shape, meta=adata.X[:0])
    return adata


@pytest.mark.parametrize("opened", [in_memory, backed, chunked])
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("index", WRONG.values(), ids=WRONG)
def test_an_index_beyond_the_shape_is_refused(form, index, opened, toy, tmp_path):
    adata = opened(damaged(form, index), tmp_path)
    keys = set(adata.obsm)
    with pytest.raises(DataError, match=r"cells and 40 genes is damaged: ind.* must be .*Make it anew, or"):
        gf.tl.tokenize(adata, toy)
    assert set(adata.obsm) == keys


def test_a_large_matrix_by_columns_is_looked_at_piece_by_piece(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP_BYTES", 256)
    with pytest.raises(DataError, match="is damaged: indices must be < 40"):
        gf.tl.tokenize(backed(damaged("csc", 99_999_999), tmp_path), toy)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_a_sound_matrix_is_the_same_and_left_as_it_is(form):
    matrix = sp.random(20, 30, 0.2, format=form, random_state=0)
    matrix.indices = np.append(matrix.indices, 0).astype(np.int64)  # more room than it uses
    matrix.data = np.append(matrix.data, 7.0)
    arrays = matrix.data, matrix.indices, matrix.indptr
    same = sound(matrix)
    assert (same != sp.random(20, 30, 0.2, format=form, random_state=0)).nnz == 0
    assert all(now is before for now, before in zip((matrix.data, matrix.indices, matrix.indptr), arrays, strict=True))
    assert np.shares_memory(same.data, matrix.data)
    assert rows_of(same).format == "csr"


def test_rows_that_end_before_they_begin_are_refused():
    matrix = sp.random(20, 30, 0.2, format="csr", random_state=0)
    matrix.indptr[3] = matrix.indptr[6]
    with pytest.raises(DataError, match="20 cells and 30 genes is damaged: indptr"):
        sound(matrix)
