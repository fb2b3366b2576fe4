from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import make_bert, make_counts, make_model, make_vocabulary

from scgeneformer._engine.attention_weights import attention_sums
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.gene_median import count_tokens
from scgeneformer._engine.gene_sums import gene_sums
from scgeneformer._engine.pooling import POOLINGS
from scgeneformer._engine.ranking import RankValue, rank_value_encode
from scgeneformer._engine.tokens import LAST, Tokens
from scgeneformer._engine.two_time_points import TwoTimePoints, reads_two_times
from scgeneformer._engine.value_bins import ValueBinned
from scgeneformer._engine.vocabulary import Vocabulary, read_vocabulary, write_vocabulary
from scgeneformer._errors import DataError


def small(**special):
    """Genes of tokens 4 to 8 and median 1, but for the first, whose median is 4."""
    return Vocabulary(
        tokens=np.arange(4, 9, dtype=np.int32),
        ensembl_ids=np.array([f"ENSG{i:011d}" for i in range(5)]),
        symbols=np.array(list("abcde")),
        medians=np.array([4.0, 1, 1, 1, 1]),
        special={"<pad>": 0, "<mask>": 1, **special},
        input_size=9,
    )


def encode(now, before, vocabulary):
    now, before = (sp.csr_matrix(np.array(x, dtype=np.float32)) for x in (now, before))
    return vocabulary.encoding.encode(now, vocabulary.tokens, vocabulary, before)


def lists(tokens):
    return [tokens[i].tolist() for i in range(len(tokens))]


NOW = [[3, 0, 1, 2, 0], [0, 0, 0, 0, 0], [0, 5, 0, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]]
BEFORE = [[0, 0, 0, 1, 7], [0, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [9, 2, 2, 1, 3]]


# --- sequences by hand ----------------------------------------------------------------------------------------------


def test_sequences_by_hand_without_special_tokens():
    vocabulary = reads_two_times(small())
    assert vocabulary.special == {"<pad>": 0, "<mask>": 1, "<cls>": 9, "<sep>": 10}
    assert (vocabulary.max_genes, vocabulary.n_special, vocabulary.sep_token) == (3, 2, 10)  # 9 places, 2 are special
    tokens, n_genes = encode(NOW, BEFORE, vocabulary)
    assert lists(tokens) == [
        [9, 7, 6, 4, 10, 8, 7],  # 3/4 of the first gene comes behind 2 and 1
        [9, 10, 6],
        [9, 5, 10],
        [],
        [9, 8, 7, 6, 10, 8, 4, 5],  # 9/4 of the first gene is between 3 and 2, of which that of lower token stays
    ]
    assert tokens.positions is None
    assert n_genes.tolist() == [3, 0, 1, 0, 5]


def test_sequences_by_hand_with_cls_and_eos():
    vocabulary = reads_two_times(small(**{"<cls>": 2, "<eos>": 3}))
    assert vocabulary.special == {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, "<sep>": 9}
    assert (vocabulary.max_genes, vocabulary.n_special) == (3, 3)
    tokens, _ = encode(NOW, BEFORE, vocabulary)
    assert lists(tokens)[:4] == [[2, 7, 6, 4, 9, 8, 7, 3], [2, 9, 6, 3], [2, 5, 9, 3], []]


def test_of_cells_without_a_past_there_is_the_present():
    vocabulary = reads_two_times(small())
    now = sp.csr_matrix(np.array(NOW, dtype=np.float32))
    tokens, _ = vocabulary.encoding.encode(now, vocabulary.tokens, vocabulary)
    assert lists(tokens) == [[9, 7, 6, 4, 10], [], [9, 5, 10], [], [9, 8, 7, 6, 10]]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    special=st.booleans(),
    input_size=st.integers(5, 60),
    density=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_each_half_is_the_rank_value_encoding_of_its_time(seed, special, input_size, density):
    one = make_vocabulary(special=special, input_size=input_size)
    two = reads_two_times(one)
    now, before = make_counts(8, density=density, seed=seed), make_counts(8, density=0.2, seed=seed + 1)
    tokens, n_genes = two.encoding.encode(now, two.tokens, two, before)
    assert tokens.lengths.max(initial=0) <= two.input_size
    whole = replace(one, special={}, input_size=40)
    ranked = [rank_value_encode(counts, one.tokens, whole)[0] for counts in (now, before)]
    np.testing.assert_array_equal(n_genes, ranked[0].lengths)
    for i in range(8):
        first, second = (some[i][: two.max_genes].tolist() for some in ranked)
        end = [two.eos_token] if special else []
        expected = [two.cls_token, *first, two.sep_token, *second, *end]
        assert tokens[i].tolist() == (expected if first or second else [])


# --- the vocabulary -------------------------------------------------------------------------------------------------


def test_the_encoding_is_part_of_the_vocabulary(tmp_path):
    one = make_vocabulary()
    two = reads_two_times(one)
    assert reads_two_times(two) is two
    assert one.encoding == RankValue()
    write_vocabulary(two, tmp_path)
    found = read_vocabulary(tmp_path)
    assert found.encoding == TwoTimePoints()
    assert found.special == two.special
    assert found.checksum == two.checksum != replace(two, encoding=RankValue()).checksum
    assert one.sep_token is None


def test_models_of_another_encoding_cannot_read_two_time_points():
    binned = replace(make_vocabulary(), encoding=ValueBinned())
    with pytest.raises(
        DataError, match=r"encoding 'value-binned', and two time points are both encoded by rank\. Take"
    ):
        reads_two_times(binned)


# --- what is read of the tokens -------------------------------------------------------------------------------------

CELLS = Tokens.from_lists([[42, 5, 6, 43, 6, 7], [42, 43, 8], [42, 9, 43], [42, 6, 43, 6]])  # 42 <cls>, 43 <sep>


def test_slots_end_where_the_past_begins():
    vocabulary = reads_two_times(make_vocabulary())
    slots = vocabulary.slots(np.array([6, 8, 9]))
    assert slots[[5, 6, 7, 8, 9, 42, 43]].tolist() == [-1, 0, -1, 1, 2, -1, LAST]
    found = CELLS.slots(slots)
    assert found.tolist() == [-1, -1, 0, -1, -1, -1, -1, -1, -1, -1, 2, -1, -1, 0, -1, -1]
    one = make_vocabulary()
    np.testing.assert_array_equal(CELLS.slots(np.arange(44)), CELLS.ids)
    assert one.slots(np.array([3, 2])).tolist() == [-1, -1, 1, 0] + 38 * [-1]


@pytest.mark.parametrize("special", [False, True])
def test_the_mean_is_that_of_the_genes_of_both_halves(special):
    vocabulary = reads_two_times(make_vocabulary(special=special))
    bert, stock = use_own_kernels(make_bert(vocabulary)), make_bert(vocabulary)
    tokens, _ = vocabulary.encoding.encode(
        make_counts(6), vocabulary.tokens, vocabulary, make_counts(6, density=0.1, seed=1)
    )
    for budget in (1, 1000):
        found = embed_cells([(0, tokens)], 6, [bert], vocabulary, [2], POOLINGS["mean"], budget)[2]
        for i in range(6):
            ids = torch.tensor(tokens[i][None].astype(np.int64))
            states = stock(ids, output_hidden_states=True).hidden_states[2][0].detach().numpy()
            np.testing.assert_allclose(found[i], states[np.isin(tokens[i], vocabulary.tokens)].mean(axis=0), atol=1e-5)


def test_genes_are_summed_as_they_are_now():
    model = make_model(two_times=True)
    genes = np.array([5, 6, 7, 8, 9])
    slots, codes = model.vocabulary.slots(genes), np.zeros(4, dtype=np.int64)
    sums = gene_sums([(0, CELLS)], [model.bert], [2], 100, codes, 1, slots, 5)
    assert sums.n_cells.tolist() == [[1, 2, 0, 0, 1]]
    stock = make_bert(model.vocabulary)
    by_hand = np.zeros(16)
    for cell, place in ((0, 2), (3, 1)):  # where gene 6 is now
        ids = torch.tensor(CELLS[cell][None].astype(np.int64))
        by_hand += stock(ids, output_hidden_states=True).hidden_states[2][0, place].detach().numpy()
    np.testing.assert_allclose(sums.sums[2][0, 1], by_hand, atol=1e-5)
    assert count_tokens([(0, CELLS)], slots, 5).tolist() == [1, 2, 0, 0, 1]


def test_attention_is_that_between_genes_as_they_are_now():
    model = make_model(two_times=True)
    slots, codes = model.vocabulary.slots(np.array([5, 6, 7])), np.zeros(4, dtype=np.int64)
    sums = attention_sums([(0, CELLS)], [model.bert], 1, [0], 100, codes, 1, slots, 3)
    n_cells = sums.of_group(0).toarray().imag
    np.testing.assert_array_equal(n_cells, [[1, 1, 0], [1, 2, 0], [0, 0, 0]])
