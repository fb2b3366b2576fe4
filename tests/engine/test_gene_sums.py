import numpy as np
import pytest
import torch
from toys import make_bert

from scgeneformer._engine import gene_sums as module
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.gene_sums import GeneSums, gene_sums
from scgeneformer._engine.tokens import Tokens

LAYERS, N_GROUPS = [0, 2], 3


@pytest.fixture
def cells(vocabulary):
    rng = np.random.default_rng(0)
    lead, trail = [2] * vocabulary.n_lead, [3] * vocabulary.n_trail
    sizes = rng.integers(1, vocabulary.max_genes + 1, 30)
    return Tokens.from_lists([[*lead, *rng.choice(vocabulary.tokens, n, replace=False), *trail] for n in sizes])


@pytest.fixture
def slots(vocabulary):
    """Every second gene, in reverse order."""
    table = np.full(vocabulary.n_tokens, -1, dtype=np.int64)
    table[vocabulary.tokens[::2]] = np.arange(20)[::-1]
    return table


def by_hand(vocabulary, cells, groups, slots):
    """Sums and squares of the stock model's states, cell by cell, in float64."""
    stock = make_bert(vocabulary)
    sums, squares = (np.zeros((3, N_GROUPS, 20, 16)) for _ in range(2))
    n_cells = np.zeros((N_GROUPS, 20), dtype=int)
    for i, group in enumerate(groups):
        with torch.no_grad():
            states = stock(torch.tensor(cells[i][None].astype(np.int64)), output_hidden_states=True).hidden_states
        for position, token in enumerate(cells[i]):
            if group < 0 or (slot := slots[token]) < 0:
                continue
            n_cells[group, slot] += 1
            for layer in LAYERS:
                state = states[layer][0, position].double().numpy()
                sums[layer, group, slot] += state
                squares[layer, group, slot] += state**2
    return sums, squares, n_cells


@pytest.mark.parametrize("n_devices", [1, 2])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_sums_equal_brute_force_over_the_stock_model(vocabulary, cells, slots, n_devices, budget):
    groups = np.resize([0, 2, -1, 1], len(cells))
    berts = [use_own_kernels(make_bert(vocabulary)) for _ in range(n_devices)]
    blocks = [(0, cells.slice(0, 11)), (11, cells.slice(11, 30))]
    found = gene_sums(blocks, berts, LAYERS, budget, groups, N_GROUPS, slots, 20, squares=True)
    sums, squares, n_cells = by_hand(vocabulary, cells, groups, slots)
    np.testing.assert_array_equal(found.n_cells, n_cells)
    for layer in LAYERS:
        np.testing.assert_allclose(found.sums[layer], sums[layer], atol=2e-5)
        np.testing.assert_allclose(found.squares[layer], squares[layer], atol=5e-5)


def test_means_and_variances_by_hand_survive_being_stored():
    """Two groups, three genes: in one cell of each group, in two cells of the first, in none."""
    sums = np.array([[[1.0, 2], [4, 6], [0, 0]], [[3, 0], [0, 0], [0, 0]]])
    squares = np.array([[[1.0, 4], [10, 20], [0, 0]], [[9, 0], [0, 0], [0, 0]]])
    n_cells = np.array([[1, 2, 0], [1, 0, 0]])
    nan = [np.nan, np.nan]
    for squared, every, first, second in (
        ({}, [[2, 1], [2, 3], nan], [[1, 2], [2, 3], nan], [[3, 0], nan, nan]),
        ({7: squares}, [[1, 1], [1, 1], nan], [[0, 0], [1, 1], nan], [[0, 0], nan, nan]),
    ):
        found = GeneSums.from_arrays(GeneSums({7: sums}, squared, n_cells).to_arrays())
        for group, expected in ((None, every), (0, first), (1, second)):
            np.testing.assert_array_equal(found.of(7, group), np.array(expected, dtype=np.float32))


def test_rows_that_hold_sums_are_copied_and_the_others_are_zero(monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    sums, rows = torch.arange(40, dtype=torch.float64).reshape(20, 2), np.array([0, 3, 4, 9, 12, 13, 19])
    expected = np.zeros((20, 2))
    expected[rows] = sums.numpy()[rows]
    np.testing.assert_array_equal(module._copy_rows(sums, rows), expected)
    np.testing.assert_array_equal(module._copy_rows(sums, rows[:0]), np.zeros((20, 2)))
