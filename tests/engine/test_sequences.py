"""Sequences that others made: what is refused, and how genes become sequences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import make_counts, make_vocabulary

from scgeneformer._engine.ranking import rank_value_encode
from scgeneformer._engine.sequences import as_sequences, check_sequences, genes_of, ranking_of
from scgeneformer._engine.tokens import Tokens
from scgeneformer._errors import DataError

PLAIN, ENDED = make_vocabulary(), make_vocabulary(special=True)  # genes from 2 on; from 4 on, between <cls> and <eos>


def check(tokens, vocabulary, first=0):
    return check_sequences(tokens, vocabulary, first + np.arange(len(tokens)))


def lists(tokens):
    return [tokens[i].tolist() for i in range(len(tokens))]


cells = st.lists(st.lists(st.integers(4, 12), max_size=8), max_size=6)


@settings(deadline=None)  # compiled at first
@given(cells)
def test_repeated_tokens_are_those_a_set_tells(sequences):
    expected = []
    for one in sequences:
        expected += [token in one[:i] for i, token in enumerate(one)]
    assert check(Tokens.from_lists(sequences), PLAIN).tolist() == expected


@given(st.lists(st.lists(st.integers(4, 43), max_size=20, unique=True), max_size=6))
def test_sequences_are_genes_cut_between_special_tokens(sequences):
    genes = Tokens.from_lists(sequences)
    found = as_sequences(genes, ENDED)
    assert lists(found) == [[2, *one[:14], 3] if one else [] for one in sequences]
    assert found.ids.dtype == np.int32
    assert lists(genes_of(found, ENDED)) == [one[:14] for one in sequences]
    assert lists(as_sequences(genes, PLAIN)) == [one[:16] for one in sequences]
    check(found, ENDED)


@pytest.mark.parametrize("vocabulary", [PLAIN, ENDED], ids=["plain", "ended"])
def test_sequences_of_the_encoder_pass_and_are_the_same_again(vocabulary):
    tokens, _ = rank_value_encode(make_counts(), vocabulary.tokens, vocabulary)
    check(tokens, vocabulary)
    assert lists(as_sequences(genes_of(tokens, vocabulary), vocabulary)) == lists(tokens)


def test_ranking_is_that_of_the_genes_and_their_medians_alone():
    assert ranking_of(make_vocabulary(input_size=8)) == ranking_of(PLAIN)
    assert ranking_of(make_vocabulary(seed=1)) != ranking_of(PLAIN)  # other medians
    assert ranking_of(make_vocabulary(n_genes=39)) != ranking_of(PLAIN)


@pytest.mark.parametrize(
    ("vocabulary", "sequences", "error"),
    [
        (PLAIN, [[5], [], [6, 42]], r"Cell 12 holds the token 42, which the model does not know \(it has 42\)"),
        (PLAIN, [[5, -1]], "Cell 10 holds the token -1, which the model does not know"),
        (
            PLAIN,
            [[5, 6, 0, 0]],
            r"Cell 10 holds <pad> \(0\) at position 2, in place of a gene. Write the cells",
        ),
        (PLAIN, [[5], [6, 1]], r"Cell 11 holds <mask> \(1\) at position 1, in place of a gene. Are these the tokens"),
        (
            PLAIN,
            [[2, 9, 3], [2, 7, 8, 3]],
            r"All cells begin with the token 2 and end with 3, .* \(V2\), and the",
        ),
        (ENDED, [[], [9, 8, 7]], r"Cell 11 begins with the token 9, where the model expects <cls> \(2\): .* V1. Name"),
        (ENDED, [[2, 9, 8]], r"Cell 10 ends with the token 8, where the model expects <eos> \(3\): these are"),
        (ENDED, [[2, 9, 3, 8, 3]], r"Cell 10 holds <eos> \(3\) at position 2, in place of a gene"),
    ],
)
def test_tokens_of_other_models_are_refused(vocabulary, sequences, error):
    with pytest.raises(DataError, match=error):
        check(Tokens.from_lists(sequences), vocabulary, first=10)


def test_empty_cells_are_allowed():
    for vocabulary in (PLAIN, ENDED):
        check(Tokens.from_lists([[], []]), vocabulary)
        check(Tokens.from_lists([]), vocabulary)
