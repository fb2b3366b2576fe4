import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgeneformer._engine.statistics import value_counts
from scgeneformer._engine.statistics.value_counts import ValueCounts, rounded

MAX_ERROR = 2.0**-9  # of a value that is rounded, relative: half the distance of two that differ

MANY = 10**6


def keys_of(genes, values) -> np.ndarray:
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return (np.asarray(genes, dtype=np.uint64) << np.uint64(32)) | bits


def collect(genes, values, max_values: int = MANY, parts: int = 1) -> ValueCounts:
    found = ValueCounts(max_values)
    for part in np.array_split(keys_of(genes, values), parts):
        found.add(part)
    found.settle()
    return found


def test_medians_by_hand():
    found = collect([0, 0, 0, 2, 2, 2, 2, 3], [5, 1, 3, 4, 4, 1, 2, 7])
    np.testing.assert_array_equal(found.medians(5), [3, np.nan, 3, 7, np.nan])
    assert found.exact
    assert len(found.keys) == 7  # the two equal values of gene 2 once


def test_no_values_have_no_median():
    assert np.isnan(ValueCounts(MANY).medians(3)).all()
    assert np.isnan(collect([], []).merged(collect([], [])).medians(2)).all()


def test_rounding_moves_a_value_by_half_of_a_512th_and_does_it_once():
    values = np.random.default_rng(0).lognormal(0, 2, 10_000).astype(np.float32)
    once = rounded(keys_of(np.zeros(10_000), values))
    back = once.astype(np.uint32).view(np.float32)
    assert np.abs(back / values - 1).max() <= MAX_ERROR
    np.testing.assert_array_equal(rounded(once), once)
    assert len(np.unique(back)) < len(np.unique(values)) / 3  # about 256 per octave


@st.composite
def values_of_genes(draw):
    n = draw(st.integers(1, 60))
    genes = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    values = draw(st.lists(st.sampled_from([1e-3, 0.5, 1, 1.001, 2, 2.001, 3, 7, 100, 1e4]), min_size=n, max_size=n))
    return np.array(genes), np.array(values, dtype=np.float32)


@given(values_of_genes(), st.integers(1, 6), st.sampled_from([0, 3, 10, MANY]), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_same_bits_whatever_the_order_and_the_parts(data, parts, max_values, random):
    genes, values = data
    order = np.array(random.sample(range(len(genes)), len(genes)))
    whole = collect(genes, values, max_values)
    pieces = [collect(genes[part], values[part], max_values, 2) for part in np.array_split(order, parts)]
    while len(pieces) > 1:
        one, two = (pieces.pop(random.randrange(len(pieces))) for _ in range(2))
        pieces.append(one.merged(two))
    np.testing.assert_array_equal(pieces[0].keys, whole.keys)
    np.testing.assert_array_equal(pieces[0].counts, whole.counts)
    assert pieces[0].exact == whole.exact == (len(np.unique(keys_of(genes, values))) <= max_values)


@given(values_of_genes(), st.sampled_from([0, MANY]))
@settings(max_examples=100, deadline=None)
def test_medians_are_those_of_numpy(data, max_values):
    genes, values = data
    found = collect(genes, values, max_values).medians(4)
    for gene in range(4):
        mine = values[genes == gene].astype(np.float64)
        if len(mine):
            assert found[gene] == pytest.approx(np.median(mine), rel=MAX_ERROR if max_values == 0 else 1e-12)
        else:
            assert np.isnan(found[gene])


def test_what_is_gathered_in_many_rounds_is_what_is_gathered_in_one(monkeypatch):
    rng = np.random.default_rng(1)
    genes, values = rng.integers(0, 20, 5000), rng.lognormal(0, 2, 5000)
    whole = collect(genes, values)
    monkeypatch.setattr(value_counts, "GATHERED", 64)
    np.testing.assert_array_equal(collect(genes, values, parts=40).keys, whole.keys)


def test_genes_get_other_numbers():
    found = collect([0, 1, 1], [5, 1, 2]).renumbered(np.array([3, 7]))
    np.testing.assert_array_equal(found.medians(8)[[3, 7]], [5, 1.5])
