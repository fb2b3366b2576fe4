import numpy as np
import pytest

from scgeneformer._engine.packing import batches, pack
from scgeneformer._engine.tokens import Tokens, concatenate, only_cells
from scgeneformer._training.dataset import TokenDataset, collate, gather

SEQUENCES = [[5, 6, 7], [], [8], [9, 10]]


@pytest.fixture
def tokens():
    return Tokens.from_lists(SEQUENCES)


def as_lists(tokens):
    return [tokens[i].tolist() for i in range(len(tokens))]


def test_cells_keep_their_tokens(tokens):
    assert as_lists(tokens) == SEQUENCES
    assert tokens.lengths.tolist() == [3, 0, 1, 2]


def test_slices_and_selections_are_those_of_a_list(tokens):
    assert as_lists(tokens.slice(1, 3)) == SEQUENCES[1:3]
    assert as_lists(tokens.slice(2, 2)) == []
    assert as_lists(tokens.take(np.array([3, 0, 3, 1]))) == [SEQUENCES[i] for i in (3, 0, 3, 1)]
    assert as_lists(concatenate([tokens.slice(0, 2), tokens.slice(2, 4)])) == SEQUENCES
    assert as_lists(concatenate([])) == []


def test_padding_and_back_gives_the_same(tokens):
    padded = tokens.to_padded(5)
    assert padded.dtype == np.uint16
    assert padded.tolist() == [[5, 6, 7, 0, 0], [0] * 5, [8, 0, 0, 0, 0], [9, 10, 0, 0, 0]]
    assert as_lists(Tokens.from_padded(padded)) == SEQUENCES


def test_tokens_beyond_uint16_are_kept():
    tokens = Tokens.from_lists([[70_000]])
    assert as_lists(Tokens.from_padded(tokens.to_padded(2, dtype=np.uint32))) == [[70_000]]


def test_positions_start_anew_in_every_cell(tokens):
    packed = pack(tokens.take(np.array([0, 2, 3])))
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert packed.offsets.tolist() == [0, 3, 4, 6]
    assert packed.lengths == [3, 1, 2]


@pytest.fixture
def placed(tokens):
    """The same tokens, each with ten times itself as position."""
    return Tokens(tokens.ids, tokens.offsets, (10 * tokens.ids).astype(np.uint8))


def test_positions_go_where_their_tokens_go(placed):
    some = [placed.slice(1, 4), placed.take(np.array([3, 0])), concatenate([placed.slice(0, 1), placed.slice(1, 4)])]
    again = Tokens.from_padded(placed.to_padded(4), positions=placed.positions_to_padded(4))
    chosen = next(only_cells([(0, placed)], np.array([False, True, True, True])))[1]
    for tokens in (*some, again, chosen):
        assert tokens.positions.dtype == np.uint8
        assert tokens.positions.tolist() == (10 * tokens.ids).tolist()
    assert chosen.lengths.tolist() == [0, 0, 1, 2]
    assert pack(placed.take(np.array([0, 2]))).positions.tolist() == [[50, 60, 70, 80]]


def test_positions_of_training_cells_go_where_their_tokens_go(placed):
    found = gather([(0, placed.slice(0, 2)), (2, placed.slice(2, 4))], np.array([True, False, True, True]), 100)
    cells = TokenDataset(found.ids, found.offsets, np.zeros((3, 1), dtype=np.int64), found.positions)
    for some in (cells.tokens, cells.take(np.array([2, 0])).tokens, *(block for _, block in cells.blocks(2))):
        assert some.positions.tolist() == (10 * some.ids).tolist()
    batch = collate([cells[2], cells[0]])
    assert batch["positions"].tolist() == (10 * batch["ids"]).tolist() == [[90, 100, 50, 60, 70]]


def test_batches_hold_at_most_the_budget_unless_one_cell_is_longer():
    assert list(batches(np.array([3, 3, 3, 9, 1, 1]), 6)) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert list(batches(np.array([9]), 1)) == [(0, 1)]
    assert list(batches(np.array([], dtype=int), 5)) == []


def test_batches_cover_every_cell_once():
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    ranges = list(batches(lengths, 100))
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
    assert ranges[-1][1] == 200
    assert all(lengths[a:b].sum() <= 100 for a, b in ranges)
