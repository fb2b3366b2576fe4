from dataclasses import replace
from fractions import Fraction

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import make_counts, make_vocabulary

from scgeneformer._engine.value_bins import ValueBinned
from scgeneformer._errors import ModelError


def vocabulary_of(encoding: ValueBinned, n_genes: int = 40, **settings):
    return replace(make_vocabulary(n_genes, **settings), encoding=encoding)


def quantiles(values: np.ndarray, m: int) -> list[Fraction]:
    """The m quantiles of some values, interpolated, in exact arithmetic."""
    ordered = sorted(Fraction(float(value)) for value in values)
    found = []
    for j in range(m):
        place = Fraction(j * (len(ordered) - 1), m - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        found.append(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
    return found


def draws(value: float, edges: list) -> range:
    """Bins that scGPT draws from: those from the first to the last edge that equals the value, or the one it is in."""
    last = sum(edge <= value for edge in edges)
    return range(min(sum(edge < value for edge in edges) + 1, last), last + 1)


def naive(values: np.ndarray, n_bins: int) -> list[int]:
    """The definition: the mean of the draws, rounded up."""
    edges = quantiles(values, n_bins - 1)
    return [-(-sum(found) // len(found)) for found in (draws(Fraction(float(x)), edges) for x in values)]


def bins_of(values, n_bins: int) -> list[int]:
    """The kernel on one cell, in the order of the genes."""
    vocabulary = vocabulary_of(ValueBinned(n_bins), len(values), input_size=len(values) + 1)
    counts = sp.csr_matrix(np.asarray(values, dtype=np.float32)[None])
    tokens, _ = vocabulary.encoding.encode(counts, vocabulary.tokens, vocabulary)
    bins = np.zeros(vocabulary.n_tokens, dtype=int)
    bins[tokens.ids] = tokens.positions
    return bins[vocabulary.tokens].tolist()


def test_hand_computed_bins():
    assert bins_of([1.0, 2, 3, 4, 5], 6) == [1, 2, 3, 4, 5]  # the five quantiles are the values
    assert bins_of([10.0, 20, 30], 6) == [1, 3, 5]  # quantiles 10, 15, 20, 25, 30
    assert bins_of([1.0, 1, 1, 1, 9], 6) == [3, 3, 3, 3, 5]  # 1, 1, 1, 1, 9: drawn from 1 ... 4, on average 2.5
    assert bins_of([7.0], 6) == [3]  # all five quantiles: drawn from 1 ... 5
    assert bins_of([4.0, 4], 51) == [26, 26]  # drawn from 1 ... 50
    assert bins_of([0.0, 5, 0, 2], 3) == [0, 2, 0, 1]


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(1, 12), min_size=1, max_size=25), n_bins=st.integers(3, 60))
def test_bins_are_those_of_the_definition(values, n_bins):
    assert bins_of(np.array(values, dtype=np.float64), n_bins) == naive(np.array(values), n_bins)


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(0.25, 1e4, width=32), min_size=1, max_size=60))
def test_bins_do_not_depend_on_normalisation(values):
    counts = np.array(values, dtype=np.float64)
    normalised = np.log1p(counts / counts.sum() * 10_000)
    if len(np.unique(normalised.astype(np.float32))) == len(np.unique(counts)):  # rounding may make two values one
        assert bins_of(counts, 51) == bins_of(normalised, 51)


def test_bins_of_real_cells_are_among_those_that_scgpt_draws(shared):
    """As numpy computes them: a quantile that ought to be a value may be off by its rounding, which moves one bin."""
    some = ad.read_h5ad(shared / "data" / "pbmc3k.h5ad")[::300]
    off = []
    for cell in some.X.toarray():
        values = cell[cell > 0].astype(np.float64)
        edges = np.quantile(values, np.linspace(0, 1, 50))
        ranges = [draws(x, edges) for x in values]
        found = bins_of(values, 51)
        off += [max(r[0] - b, b - r[-1], 0) for r, b in zip(ranges, found, strict=True)]
    assert max(off) <= 1
    assert np.mean(off) < 0.001


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("input_size", [9, 16, 60])
def test_cells_are_those_of_the_definition(zeros, special, input_size):
    encoding = ValueBinned(8, zeros)
    vocabulary = vocabulary_of(encoding, special=special, input_size=input_size)
    dense = make_counts(150, density=0.3, seed=3).toarray()
    dense[5], dense[6, 1:] = 0, 0
    counts = sp.csr_matrix(dense)
    rng = np.random.default_rng(0)
    gene_tokens = np.where(rng.random(40) < 0.8, rng.permutation(vocabulary.tokens), -1).astype(np.int32)
    tokens, n_genes = encoding.encode(counts, gene_tokens, vocabulary)
    lead, trail = vocabulary.n_lead, vocabulary.n_trail
    assert tokens.positions.dtype == np.uint8
    for i, cell in enumerate(dense):
        value = {t: x for t, x in zip(gene_tokens.tolist(), cell.tolist(), strict=True) if t >= 0}
        genes = [t for t, x in value.items() if x > 0]
        assert n_genes[i] == len(genes)
        bins = dict(zip(genes, naive(np.array([value[t] for t in genes]), 8), strict=True)) if genes else {}
        read = sorted(value if zeros else genes, key=lambda t: (-value[t], t))[: vocabulary.max_genes]
        expected = [*[8] * lead, *[bins.get(t, 0) for t in read], *[8] * trail] if genes else []
        assert tokens[i].tolist() == ([*[2] * lead, *read, *[3] * trail] if genes else [])
        assert tokens.positions[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() == expected


def test_explicit_zeros_are_no_counts():
    vocabulary = vocabulary_of(ValueBinned(4), 3)
    counts = sp.csr_matrix((np.array([0, 2], np.float32), np.array([0, 2]), np.array([0, 2])), shape=(1, 3))
    tokens, n_genes = vocabulary.encoding.encode(counts, vocabulary.tokens, vocabulary)
    assert (tokens.ids.tolist(), n_genes.tolist()) == ([4], [1])


def test_many_bins_are_kept():
    vocabulary = vocabulary_of(ValueBinned(300), input_size=400)
    tokens, _ = vocabulary.encoding.encode(make_counts(3), vocabulary.tokens, vocabulary)
    assert tokens.positions.dtype == np.uint16
    assert tokens.positions.max() == 299


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"n_bins": 2}, "n_bins=2 must be a whole number from 3 to 65,534"),
        ({"n_bins": 51.0}, r"n_bins=51\.0 must be a whole number"),
        ({"n_bins": 70_000}, "n_bins=70000 must be"),
        ({"zeros": "all"}, "zeros='all' must be True or False"),
    ],
)
def test_wrong_settings_are_refused(wrong, text):
    with pytest.raises(ModelError, match=text):
        ValueBinned(**wrong)
