from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import make_counts, make_vocabulary

from scgeneformer._engine.ranking import rank_value_encode
from scgeneformer._engine.tokens import Tokens
from scgeneformer._engine.vocabulary import Vocabulary


def naive(counts: np.ndarray, gene_tokens: np.ndarray, vocabulary: Vocabulary) -> Tokens:
    """The definition, one cell at a time."""
    median = dict(zip(vocabulary.tokens.tolist(), vocabulary.medians.tolist(), strict=True))
    lead = [vocabulary.cls_token] if vocabulary.n_lead else []
    trail = [vocabulary.eos_token] if vocabulary.n_trail else []
    sequences = []
    for cell in counts.astype(np.float64):
        genes = [
            (-x / median[t], t) for x, t in zip(cell.tolist(), gene_tokens.tolist(), strict=True) if x > 0 and t >= 0
        ]
        ranked = [t for _, t in sorted(genes)][: vocabulary.max_genes]
        sequences.append([*lead, *ranked, *trail] if ranked else [])
    return Tokens.from_lists(sequences)


def assert_same(found: Tokens, expected: Tokens) -> None:
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(found.ids, expected.ids)


def test_a_hand_computed_cell():
    vocabulary = Vocabulary(
        tokens=np.array([2, 3, 4, 5], dtype=np.int32),
        ensembl_ids=np.array(list("abcd")),
        symbols=np.array([""] * 4),
        medians=np.array([2.0, 1.0, 4.0, 0.5]),
        special={"<pad>": 0, "<mask>": 1},
        input_size=4,
    )
    counts = sp.csr_matrix(np.array([[4, 3, 4, 0], [2, 1, 4, 1]], dtype=np.float32))
    tokens, n_genes = rank_value_encode(counts, np.array([2, 3, 4, 5], dtype=np.int32), vocabulary)
    assert tokens[0].tolist() == [3, 2, 4]  # 3/1, 4/2, 4/4
    assert tokens[1].tolist() == [5, 2, 3, 4]  # 1/0.5, then a tie of 2/2, 1/1, 4/4 in the order of the tokens
    assert n_genes.tolist() == [3, 4]


@pytest.mark.parametrize("spread", [1e-5, 1e-3, 0.2])
def test_values_that_are_nearly_the_same_are_in_order(spread):
    """They differ in any of the bits that the passes of the sort look at."""
    vocabulary = make_vocabulary(60)
    vocabulary = replace(vocabulary, medians=np.ones(60))
    counts = np.random.default_rng(0).uniform(1, 1 + spread, size=(5, 60)).astype(np.float32)
    found, _ = rank_value_encode(sp.csr_matrix(counts), vocabulary.tokens, vocabulary)
    assert_same(found, naive(counts, vocabulary.tokens, vocabulary))


def test_special_tokens_frame_the_genes_and_stay_when_the_cell_is_cut():
    vocabulary = make_vocabulary(10, special=True, input_size=5)
    counts = sp.csr_matrix(np.ones((1, 10), dtype=np.float32))
    tokens, n_genes = rank_value_encode(counts, vocabulary.tokens, vocabulary)
    assert len(tokens[0]) == 5
    assert (tokens[0][0], tokens[0][-1]) == (2, 3)
    assert n_genes.tolist() == [10]


def test_a_cell_without_a_known_gene_is_empty_even_with_special_tokens():
    vocabulary = make_vocabulary(3, special=True)
    counts = sp.csr_matrix(np.array([[0, 0, 5], [1, 0, 0]], dtype=np.float32))
    tokens, n_genes = rank_value_encode(counts, np.array([4, 5, -1], dtype=np.int32), vocabulary)
    assert tokens.lengths.tolist() == [0, 3]
    assert n_genes.tolist() == [0, 1]


def test_explicit_zeros_are_no_counts():
    vocabulary = make_vocabulary(3)
    counts = sp.csr_matrix(
        (np.array([0.0, 2.0], np.float32), np.array([0, 2], np.int32), np.array([0, 2])), shape=(1, 3)
    )
    tokens, _ = rank_value_encode(counts, vocabulary.tokens, vocabulary)
    assert tokens.ids.tolist() == [4]


@pytest.mark.parametrize("tiny", [1e-44, 1e-50, 5e-324])
def test_values_that_are_zero_in_float32_are_no_zeros(tiny):
    """Their genes come last, and are not taken for those of the cell before."""
    vocabulary = make_vocabulary(4)
    for counts in ([[5, tiny, 3, 2]], [[tiny, 3 * tiny, tiny, 2 * tiny], [5, 4, 3, 2]]):
        counts = np.array(counts, dtype=np.float64)
        found, n_genes = rank_value_encode(sp.csr_matrix(counts), vocabulary.tokens, vocabulary)
        assert_same(found, naive(counts, vocabulary.tokens, vocabulary))
        assert n_genes.tolist() == [4] * len(counts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kernel_equals_the_definition(vocabulary, dtype):
    counts = make_counts(300, seed=1).astype(dtype)
    rng = np.random.default_rng(0)
    gene_tokens = np.where(rng.random(40) < 0.8, rng.permutation(vocabulary.tokens), -1).astype(np.int32)
    tokens, n_genes = rank_value_encode(counts, gene_tokens, vocabulary)
    assert_same(tokens, naive(counts.toarray(), gene_tokens, vocabulary))
    np.testing.assert_array_equal(n_genes, (counts.toarray()[:, gene_tokens >= 0] > 0).sum(axis=1))


positive = st.floats(min_value=1e-300, max_value=1e300, allow_subnormal=False)


@given(
    values=st.lists(st.one_of(st.integers(0, 5), positive), min_size=1, max_size=60),
    medians=st.lists(st.sampled_from([1e-7, 0.5, 1.0, 1.0 + 2**-30, 3.0, 300.0]), min_size=60, max_size=60),
    order=st.permutations(range(60)),
)
@settings(max_examples=200, deadline=None)
def test_any_values_are_ranked_as_the_definition_says(values, medians, order):
    """Ties, near ties that float32 cannot tell, and values outside the range of the coarse keys included."""
    vocabulary = Vocabulary(
        tokens=np.arange(2, 62, dtype=np.int32),
        ensembl_ids=np.array([str(i) for i in range(60)]),
        symbols=np.array([""] * 60),
        medians=np.array(medians),
        special={"<pad>": 0, "<mask>": 1},
        input_size=50,
    )
    gene_tokens = (np.array(order[: len(values)]) + 2).astype(np.int32)
    counts = np.array([values], dtype=np.float64)
    tokens, _ = rank_value_encode(sp.csr_matrix(counts), gene_tokens, vocabulary)
    assert_same(tokens, naive(counts, gene_tokens, vocabulary))


def test_thousands_of_equal_values_come_in_the_order_of_their_tokens():
    n = 5000
    vocabulary = Vocabulary(
        tokens=np.arange(2, n + 2, dtype=np.int32),
        ensembl_ids=np.arange(n).astype(str),
        symbols=np.array([""] * n),
        medians=np.ones(n),
        special={"<pad>": 0, "<mask>": 1},
        input_size=n,
    )
    gene_tokens = np.random.default_rng(0).permutation(vocabulary.tokens)
    tokens, _ = rank_value_encode(sp.csr_matrix(np.ones((1, n))), gene_tokens, vocabulary)
    np.testing.assert_array_equal(tokens.ids, vocabulary.tokens)


def test_no_cells_give_no_tokens(vocabulary):
    tokens, n_genes = rank_value_encode(sp.csr_matrix((0, 40), dtype=np.float32), vocabulary.tokens, vocabulary)
    assert len(tokens) == len(n_genes) == 0


def test_scaling_a_cell_does_not_change_its_tokens(vocabulary):
    counts = make_counts(50, seed=2).astype(np.float64)
    scaled = sp.diags(2.0 ** np.arange(50)) @ counts  # powers of two: no rounding
    one, _ = rank_value_encode(counts, vocabulary.tokens, vocabulary)
    other, _ = rank_value_encode(sp.csr_matrix(scaled), vocabulary.tokens, vocabulary)
    assert_same(one, other)


def test_two_threads_at_once_give_the_tokens_of_one(vocabulary):
    from concurrent.futures import ThreadPoolExecutor

    counts = make_counts(500, seed=3)
    expected, _ = rank_value_encode(counts, vocabulary.tokens, vocabulary)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(rank_value_encode, counts, vocabulary.tokens, vocabulary) for _ in range(12)]
    for run in runs:
        assert_same(run.result()[0], expected)
