import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from toys import make_adata, make_counts

from scgeneformer._adata.counts import count_share, open_counts
from scgeneformer._errors import DataError, MissingKeyError

DENSE = make_counts().toarray()

KINDS = {
    "ndarray": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "int64": lambda x: sp.csr_matrix(x.astype(np.int64)),
    "uint16": lambda x: sp.csr_matrix(x.astype(np.uint16)),
    "fortran": np.asfortranarray,
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
}


def read(counts, rows=5):
    """All blocks put together."""
    blocks = list(counts.blocks(rows))
    assert [start for start, _ in blocks] == list(range(0, counts.n_obs, rows))
    assert all(block.indices.dtype == np.int32 for _, block in blocks)
    return sp.vstack([block for _, block in blocks]).toarray()


@pytest.fixture(params=KINDS)
def adata(request):
    adata = make_adata()
    adata.X = KINDS[request.param](DENSE)
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata
    return adata


@pytest.mark.parametrize("where", [{}, {"counts_layer": "counts"}, {"use_raw": True}], ids=["X", "layer", "raw"])
def test_every_kind_of_matrix_gives_the_same_rows(adata, where):
    np.testing.assert_array_equal(read(open_counts(adata, **where)), DENSE)


def test_a_view_gives_its_own_rows(adata):
    rows = [7, 2, 9, 0, 1]
    np.testing.assert_array_equal(read(open_counts(adata[rows])), DENSE[rows])
    np.testing.assert_array_equal(read(open_counts(adata[:, 5:20])), DENSE[:, 5:20])


@pytest.mark.parametrize("kind", ["ndarray", "csr", "csc"])
def test_a_backed_file_and_its_views_give_the_same_rows(tmp_path, kind):
    adata = make_adata()
    adata.X = KINDS[kind](DENSE)
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for where in ({}, {"counts_layer": "counts"}, {"use_raw": True}):
        np.testing.assert_array_equal(read(open_counts(backed, **where)), DENSE)
    rows = [1, 4, 6, 7, 8, 11]
    np.testing.assert_array_equal(read(open_counts(backed[rows]), 4), DENSE[rows])
    backed.file.close()


def test_entries_stored_twice_are_summed_and_the_users_matrix_stays_as_it_is():
    adata = make_adata(2, 3)
    stored = sp.csr_matrix((np.array([1.0, 2.0, 4.0]), np.array([2, 0, 2]), np.array([0, 3, 3])), shape=(2, 3))
    adata.X = stored
    np.testing.assert_array_equal(read(open_counts(adata)), [[2, 0, 5], [0, 0, 0]])
    assert adata.X.nnz == 3


def test_log1p_values_are_told_from_counts_and_turned_back():
    adata = make_adata()
    adata.X = np.log1p(make_counts(seed=3).toarray() / 3)
    np.testing.assert_allclose(read(open_counts(adata)), make_counts(seed=3).toarray() / 3, rtol=1e-5)


def test_the_base_of_the_logarithm_is_taken_from_uns():
    adata = make_adata()
    adata.X = np.log1p(DENSE / 3) / np.log(2)
    adata.uns["log1p"] = {"base": 2}
    np.testing.assert_allclose(read(open_counts(adata)), DENSE / 3, rtol=1e-5)


def test_counts_stay_counts_beside_a_note_of_log1p():
    adata = make_adata()
    adata.uns["log1p"] = {"base": None}  # as sc.pp.log1p leaves it, while the layer keeps the counts
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    np.testing.assert_array_equal(read(open_counts(adata, "counts")), DENSE)


def test_large_values_that_are_no_whole_numbers_are_a_linear_scale():
    adata = make_adata()
    adata.X = DENSE * 1000.5
    np.testing.assert_allclose(read(open_counts(adata)), DENSE * 1000.5)


@pytest.mark.parametrize(
    ("bad", "text"),
    [(-1.0, "negative values"), (np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (-np.inf, "negative values")],
)
def test_values_that_are_no_counts_are_refused(bad, text):
    adata = make_adata()
    adata.X = DENSE.copy()
    adata.X[3, 4] = bad
    with pytest.raises(DataError, match=rf"adata\.X holds {text}.*adata\.layers\['counts'\]"):
        open_counts(adata)


def test_a_bad_value_outside_the_sample_is_found_when_it_is_read():
    adata = make_adata(2000)
    adata.X = adata.X.toarray()
    adata.X[150, 0] = -1
    counts = open_counts(adata)
    with pytest.raises(DataError, match="negative"):
        read(counts, 50)


def test_scaled_data_are_refused_with_the_places_where_counts_may_be():
    adata = make_adata()
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata
    adata.X = adata.X.toarray() - 1
    with pytest.raises(DataError, match=r"scaled data\?.*counts_layer='counts' or use_raw=True"):
        open_counts(adata)


def test_a_layer_that_does_not_exist_is_refused_with_those_that_do():
    adata = make_adata()
    with pytest.raises(MissingKeyError, match=r"layers\['nope'\] does not exist; the layers are: none"):
        open_counts(adata, "nope")
    adata.layers["counts"] = adata.X
    with pytest.raises(MissingKeyError, match="the layers are: 'counts'"):
        open_counts(adata, "nope")


def test_no_raw_no_x_and_both_at_once_are_refused():
    adata = make_adata()
    with pytest.raises(MissingKeyError, match=r"adata\.raw is None"):
        open_counts(adata, use_raw=True)
    with pytest.raises(DataError, match="name two different matrices"):
        open_counts(adata, "counts", use_raw=True)
    adata.X = None
    with pytest.raises(MissingKeyError, match=r"adata\.X is None"):
        open_counts(adata)


def test_the_share_of_the_counts_is_that_of_the_known_genes():
    adata = make_adata(1, 4)
    adata.X = np.array([[1.0, 2, 3, 4]])
    assert count_share(open_counts(adata), np.array([5, -1, -1, 6])) == pytest.approx(0.5)


def corrected():
    """Counts of which other shares were taken from each, with values up to 5."""
    return DENSE * np.random.default_rng(0).uniform(0.7, 1, DENSE.shape).astype(np.float32)


def test_fractions_that_are_counts_on_another_scale_are_no_logarithms(log):
    adata = make_adata()
    adata.X = DENSE * np.float32(0.97)
    adata.uns["log1p"] = {"base": None}  # of another matrix
    np.testing.assert_array_equal(read(open_counts(adata)), adata.X)
    assert "adata.X holds fractions, up to 4.85: taken as counts on another scale" in log()
    assert "WARNING" not in log()


def test_fractions_that_may_be_either_are_taken_as_logarithms_with_a_warning(log):
    adata = make_adata()
    adata.X = corrected() * np.float32(1e6)
    np.testing.assert_array_equal(read(open_counts(adata)), adata.X)
    assert log() == ""
    adata.X = corrected()
    np.testing.assert_allclose(read(open_counts(adata)), np.expm1(corrected()), rtol=1e-5)
    assert "WARNING: adata.X holds fractions" in log()
    assert "taken as log1p of normalised counts, as most such values are. If they are no logarithms, multiply" in log()
    adata.layers["counts"] = DENSE
    open_counts(adata)
    assert log().rstrip().endswith("by 1e6, which changes no rank, or name the counts: counts_layer='counts'.")
    adata.X = corrected()
    adata.uns["log1p"] = {"base": 2}
    np.testing.assert_allclose(read(open_counts(adata)), 2.0 ** corrected() - 1, rtol=1e-5)
    assert "taken as log1p of normalised counts, as adata.uns['log1p'] says. If they are no logarithms" in log()


def test_the_note_of_log1p_may_have_been_emptied_by_a_file(tmp_path):
    adata = make_adata()
    adata.X = corrected()
    adata.uns["log1p"] = {"base": None}
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_allclose(read(open_counts(back)), np.expm1(corrected()), rtol=1e-5)
