import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from anndata.io import sparse_dataset, write_elem
from hypothesis import given
from hypothesis import strategies as st
from toys import make_counts

from scgeneformer._adata import row_groups
from scgeneformer._adata.row_groups import by_groups, csc_rows, dask_rows

COUNTS = make_counts(50, 40)
FORMATS = [{"zarr_format": 2}, {"zarr_format": 3}] if zarr.__version__ >= "3" else [{}]
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding will be the default:UserWarning")


@pytest.fixture(params=["h5ad", *FORMATS], ids=str)
def by_columns(request, tmp_path):
    """A matrix on disk that is stored by columns."""
    adata = ad.AnnData(COUNTS.tocsc())
    if request.param == "h5ad":
        adata.write_h5ad(tmp_path / "a.h5ad")
        backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
        yield backed.X
        backed.file.close()
    else:
        group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", **request.param)
        write_elem(group, "X", adata.X)
        yield sparse_dataset(group["X"])


@given(st.lists(st.integers(0, 7), min_size=1), st.data())
def test_groups_of_any_size_give_every_range_of_rows_and_each_is_asked_for_once(sizes, data):
    edges = np.append(0, np.cumsum(sizes)).tolist()
    rows, asked = np.arange(edges[-1])[:, None], []
    read = by_groups(edges, lambda i: asked.append(i) or rows[edges[i] : edges[i + 1]])
    size = data.draw(st.integers(1, 10))
    for start in range(0, edges[-1], size):
        np.testing.assert_array_equal(read(start, start + size), rows[start : start + size])
    assert len(set(asked)) == len(asked)
    start, stop = sorted(data.draw(st.lists(st.integers(0, edges[-1]), min_size=2, max_size=2)))
    np.testing.assert_array_equal(read(start, stop), rows[start:stop])


@pytest.mark.parametrize("n_bytes", [10**9, 3000, 500, 1])
def test_a_matrix_by_columns_gives_its_rows_in_whatever_parts_it_is_read(by_columns, n_bytes, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP_BYTES", n_bytes)
    read = csc_rows(by_columns)
    for start, stop in [(0, 7), (7, 30), (30, 50), (3, 4), (0, 50), (10, 10)]:
        block = read(start, stop)
        assert block.format == "csr"
        np.testing.assert_array_equal(block.toarray(), COUNTS[start:stop].toarray())


def test_a_large_matrix_by_columns_is_read_once_and_said_to_be(by_columns, monkeypatch, log):
    monkeypatch.setattr(row_groups, "GROUP_BYTES", 500)
    read = csc_rows(by_columns)
    assert "stored by columns (CSC): turned into rows in a temporary file of 0.0 GB" in log()
    monkeypatch.setattr(type(by_columns), "group", property(lambda self: pytest.fail("read again")))
    assert sp.vstack([read(i, i + 9) for i in range(0, 50, 9)]).nnz == COUNTS.nnz


@pytest.mark.parametrize("chunks", [(50, 40), (20, 40), (50, 7), (13, 11)])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_chunks_of_dask_arrays_are_computed_once(chunks, kind):
    da = pytest.importorskip("dask.array")
    computed = []
    dense = da.from_array(COUNTS.toarray(), chunks=chunks)
    array = dense.map_blocks(lambda block: computed.append(block.shape) or kind(block), dtype=dense.dtype)
    if kind is not np.asarray:
        array = dense.rechunk((chunks[0], -1)).map_blocks(lambda block: computed.append(block.shape) or kind(block))
    computed.clear()
    read = dask_rows(array)
    blocks = [read(i, min(i + 9, 50)) for i in range(0, 50, 9)]
    np.testing.assert_array_equal(np.vstack([b.toarray() if sp.issparse(b) else b for b in blocks]), COUNTS.toarray())
    assert len(computed) == array.npartitions
