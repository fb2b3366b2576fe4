import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scgeneformer._engine.statistics.gene_statistics import GeneStatistics, merge_all
from scgeneformer._engine.statistics.gene_stream import GeneStream
from scgeneformer._errors import DataError

MANY, TARGET = 10**6, 1e4


def statistics(dense, ids=None, *, gene_of_column=None, target_sum=TARGET, max_values=MANY, block=7, symbols=None):
    """Statistics of a dense matrix, added in blocks of rows."""
    ids = [f"GENE{i}" for i in range(np.shape(dense)[1])] if ids is None else ids
    column = np.arange(len(ids)) if gene_of_column is None else np.asarray(gene_of_column)
    stream = GeneStream(column, len(ids), target_sum, max_values)
    for start in range(0, len(dense), block):
        stream.add(sp.csr_matrix(np.asarray(dense[start : start + block])))
    names = np.full(len(ids), "") if symbols is None else np.array(symbols)
    return GeneStatistics.of_stream(stream, np.array(ids), names)


def naive(dense, target_sum=TARGET):
    """Median, mean and variance by numpy."""
    total = dense.sum(axis=1, keepdims=True)
    scaled = dense / np.where(total > 0, total, 1) * target_sum
    medians = [np.median(column[column > 0]) if (column > 0).any() else np.nan for column in scaled.T]
    return np.array(medians), scaled.mean(axis=0), scaled.var(axis=0)


def test_statistics_are_those_computed_by_hand():
    found = statistics([[1, 3, 0], [0, 0, 0], [2, 0, 0], [1, 1, 2]], target_sum=4)  # gives 1 3 0, 0, 4 0 0, 1 1 2
    np.testing.assert_array_equal(found.median, [1, 2, 2])
    np.testing.assert_array_equal(found.mean, [1.5, 1, 0.5])
    np.testing.assert_allclose(found.variance, [2.25, 1.5, 0.75])
    np.testing.assert_allclose(found.std, np.sqrt([2.25, 1.5, 0.75]))
    np.testing.assert_array_equal(found.n_detected, [3, 2, 1])
    np.testing.assert_array_equal(found.detection, [0.75, 0.5, 0.25])
    assert found.total_cells == 4
    assert found.to_frame().columns.tolist() == [
        *("symbol", "n_cells", "n_detected", "detection", "median", "mean", "variance", "std"),
    ]


def test_they_print_in_one_line():
    assert repr(statistics([[1.0]])) == "GeneStatistics: 1 genes in 1 cells, 10,000 counts per cell, exact medians"
    rounded = statistics([[1.0, 2]], target_sum=None, max_values=1)
    assert repr(rounded) == "GeneStatistics: 2 genes in 1 cells, counts as they are, rounded medians"


def test_a_gene_that_is_never_seen_has_no_median_and_mean_zero():
    found = statistics([[1, 0], [2, 0]])
    assert np.isnan(found.median[1])
    assert (found.mean[1], found.variance[1], found.n_detected[1]) == (0, 0, 0)


def test_columns_of_one_gene_are_added_up_and_unknown_ones_count_for_the_total():
    dense = np.array([[1.0, 2, 3, 4], [0, 5, 5, 0]])
    found = statistics(dense, ["A", "B"], gene_of_column=[0, 1, 0, -1], target_sum=10)
    np.testing.assert_array_equal(found.mean, [(4 + 5) / 2, (2 + 5) / 2])
    np.testing.assert_array_equal(found.n_detected, [2, 2])
    alone = statistics(dense, ["A"], gene_of_column=[0, -1, -1, -1], target_sum=10)
    np.testing.assert_array_equal(alone.mean, [0.5])


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 5, 20, 1000]),
    st.integers(1, 8),
    st.sampled_from([0, 50, MANY]),
    st.integers(1, 400),
)
@settings(max_examples=60, deadline=None)
def test_random_matrices_give_the_naive_numbers_whatever_the_chunks_and_the_workers(
    seed, largest, workers, max_values, block
):
    """1000 x 5 whole numbers: medians within 1 % of the exact ones, and the same bits in every order."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, largest + 1, (1000, 5)).astype(np.float32)
    order = rng.permutation(1000)
    parts = [statistics(dense[i], block=block, max_values=max_values) for i in np.array_split(order, workers)]
    rng.shuffle(parts)
    found, once = merge_all(parts), statistics(dense, block=1000, max_values=max_values)
    median, mean, variance = naive(dense.astype(np.float64))
    np.testing.assert_allclose(found.median, median, rtol=1e-6 if found.exact else 1 / 512)
    np.testing.assert_array_equal(found.median, once.median)
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose(found.variance, variance)
    assert found.checksum == once.checksum
    assert found.exact == once.exact == (max_values == MANY or len(once.values.keys) <= max_values)


def test_five_million_values_around_100_come_out_right_where_float32_sums_fail():
    values = np.random.default_rng(0).normal(100, 1, (1_000_000, 5)).astype(np.float32)
    true = values.astype(np.float64).var(axis=0)
    stream = GeneStream(np.arange(5), 5, None, 1000)
    for part in np.array_split(values, 100):
        stream.add(sp.csr_matrix(part))
    found = GeneStatistics.of_stream(stream, np.array(list("ABCDE")), np.full(5, ""))
    np.testing.assert_allclose(found.mean, values.mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(found.variance, true, rtol=1e-9)
    n = np.float32(len(values))  # one after the other, in float32
    sums = np.cumsum(values[:, 0])[-1] / n, np.cumsum(values[:, 0] ** 2)[-1] / n
    assert abs((sums[1] - sums[0] ** 2) / true[0] - 1) > 1e-3


def test_genes_that_only_some_of_the_data_have_count_only_there():
    one = statistics([[1, 1], [1, 3]], ["A", "C"], target_sum=4, symbols=["a", ""])
    two = statistics([[4.0, 0.0]], ["B", "C"], target_sum=4, symbols=["b", "c"])
    found = one.merge(two).to_frame()
    assert found.index.tolist() == ["A", "B", "C"]
    assert found["symbol"].tolist() == ["a", "b", "c"]
    assert found["n_cells"].tolist() == [2, 1, 3]
    assert found["n_detected"].tolist() == [2, 1, 2]
    assert found["median"].tolist() == [1.5, 4, 2.5]
    np.testing.assert_allclose(found["mean"], [1.5, 4, (2 + 3 + 0) / 3])
    np.testing.assert_allclose(found["variance"], [0.25, 0, np.var([2, 3, 0])])
    assert two.merge(one).checksum == one.merge(two).checksum
    assert one.gene_ids.tolist() == ["A", "C"]


def test_merging_says_when_no_gene_is_shared(log):
    statistics([[1.0]], ["GAPDH"]).merge(statistics([[1.0]], ["ENSG00000111640"]))
    assert "no gene is in both of the data that are merged: one has genes such as 'GAPDH'" in log()
    assert "gene_ids='<column>'" in log()


def test_other_target_sums_do_not_merge():
    with pytest.raises(DataError, match=r"target_sum=10000.0 and target_sum=1000000.0, which cannot be merged"):
        statistics([[1.0]]).merge(statistics([[1.0]], target_sum=1e6))


@pytest.mark.parametrize("ids", [["A", "A"], ["B", "A"], ["", "A"]])
def test_every_gene_has_an_id_of_its_own(ids):
    with pytest.raises(DataError, match="ascending, each once and none empty"):
        statistics([[1.0, 2.0]], ids)


@pytest.mark.parametrize("max_values", [2, MANY])
@pytest.mark.parametrize("target_sum", [None, 1e4])
def test_a_file_gives_the_same_back_and_merges_on(tmp_path, max_values, target_sum):
    dense = np.random.default_rng(3).poisson(1, (50, 4)).astype(float)
    found = statistics(dense, max_values=max_values, target_sum=target_sum, symbols=list("wxyz"))
    path = found.save(tmp_path / "genes.stats")
    assert [file.name for file in tmp_path.iterdir()] == ["genes.stats"]
    back = GeneStatistics.load(path)
    assert back.checksum == found.checksum
    assert (back.target_sum, back.exact, back.total_cells) == (target_sum, found.exact, 50)
    assert back.to_frame().equals(found.to_frame())
    twice = back.merge(found)
    np.testing.assert_array_equal(twice.median, found.median)
    np.testing.assert_allclose(twice.variance, found.variance)
    assert twice.total_cells == 100


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_files_that_are_no_statistics_are_refused(tmp_path, content):
    path = tmp_path / "x.npz"
    if content is None:
        np.savez(path, a=np.arange(3))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.npz holds no gene statistics that can be read: .*GeneStatistics.save"):
        GeneStatistics.load(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = statistics(np.ones((50, 10))).save(tmp_path / "x.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="holds no gene statistics"):
        GeneStatistics.load(path)


def test_a_file_of_another_version_is_refused(tmp_path):
    path = statistics(np.ones((5, 2))).save(tmp_path / "x.npz")
    with np.load(path) as file:
        np.savez(path, **{**file, "format": "9"})
    with pytest.raises(DataError, match=r"x\.npz holds no gene statistics .*made by another version"):
        GeneStatistics.load(path)


def test_pickles_are_not_opened(tmp_path):
    np.savez(tmp_path / "x.npz", format=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="allow_pickle=False"):
        GeneStatistics.load(tmp_path / "x.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        GeneStatistics.load(tmp_path / "absent.npz")
