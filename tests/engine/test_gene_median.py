import tempfile

import numpy as np
import pytest
import torch
from toys import make_bert

from scgeneformer import DataError
from scgeneformer._engine import gene_median
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.gene_median import count_tokens, gene_medians
from scgeneformer._engine.tokens import Tokens

LAYERS, N_GROUPS, N_SLOTS = [0, 2], 3, 20


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
    table[vocabulary.tokens[::2]] = np.arange(N_SLOTS)[::-1]
    return table


GROUPS = np.resize([0, 2, 0, 1, 2], 30)


def by_hand(vocabulary, cells, slots, groups):
    """Medians of the stock model's states, cell by cell; the last row of each is over all groups."""
    stock, states = make_bert(vocabulary), {}
    for cell in np.flatnonzero(groups >= 0):
        with torch.no_grad():
            hidden = stock(torch.tensor(cells[cell][None].astype(np.int64)), output_hidden_states=True).hidden_states
        for position, token in enumerate(cells[cell]):
            for of in (groups[cell], N_GROUPS):
                for layer in LAYERS:
                    states.setdefault((layer, of, slots[token]), []).append(hidden[layer][0, position].numpy())
    medians = np.full((3, N_GROUPS + 1, N_SLOTS, 16), np.nan)
    for (layer, of, slot), values in states.items():
        if slot >= 0:
            medians[layer, of, slot] = np.median(values, axis=0)
    return medians


def run(vocabulary, cells, slots, groups=GROUPS, budget=10_000, n_devices=1, max_bytes=1e9):
    berts = [use_own_kernels(make_bert(vocabulary)) for _ in range(n_devices)]
    blocks = [(0, cells.slice(0, 11)), (11, cells.slice(11, 30))]
    counts = count_tokens(blocks, slots, N_SLOTS)
    asked = (LAYERS, budget, groups, N_GROUPS, slots, N_SLOTS)
    return gene_medians(blocks, berts, *asked, n_of_slot=counts, max_bytes=max_bytes)


@pytest.mark.parametrize("n_devices", [1, 2])
@pytest.mark.parametrize("max_bytes", [1e9, 3000, 0], ids=["memory", "disk in blocks", "disk row by row"])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_medians_equal_brute_force_over_the_stock_model(vocabulary, cells, slots, budget, max_bytes, n_devices):
    found = run(vocabulary, cells, slots, GROUPS, budget, n_devices, max_bytes)
    expected = by_hand(vocabulary, cells, slots, GROUPS)
    for layer in LAYERS:
        np.testing.assert_allclose(found.of(layer), expected[layer, N_GROUPS], atol=1e-5)
        for group in range(N_GROUPS):
            np.testing.assert_allclose(found.of(layer, group), expected[layer, group], atol=1e-5)


def test_memory_and_disk_give_the_same_to_the_last_bit(vocabulary, cells, slots):
    one, other = (run(vocabulary, cells, slots, max_bytes=n) for n in (1e9, 5000))
    np.testing.assert_array_equal(one.n_cells, other.n_cells)
    for layer in LAYERS:
        np.testing.assert_array_equal(one.groups[layer], other.groups[layer])


@pytest.mark.parametrize("max_bytes", [1e9, 0], ids=["memory", "disk"])
def test_cells_of_no_group_have_no_part_in_any_median(vocabulary, cells, slots, max_bytes):
    groups = np.where(GROUPS > 0, GROUPS, -1)
    found, expected = (
        run(vocabulary, cells, slots, groups, max_bytes=max_bytes),
        by_hand(vocabulary, cells, slots, groups),
    )
    assert not found.n_cells[0].any()
    for layer in LAYERS:
        np.testing.assert_allclose(found.of(layer), expected[layer, N_GROUPS], atol=1e-5)
        for group in range(N_GROUPS):
            np.testing.assert_allclose(found.of(layer, group), expected[layer, group], atol=1e-5)


def test_a_gene_in_no_cell_is_nan(vocabulary, cells, slots):
    slots[vocabulary.tokens[0]] = -1
    found = run(vocabulary, cells, slots)
    assert not found.n_cells[:, N_SLOTS - 1].any()
    assert np.isnan(found.of(2)[N_SLOTS - 1]).all()


def test_the_temporary_file_is_gone_after_an_error(vocabulary, cells, slots, monkeypatch):
    files = []

    def remembered(**kwargs):
        files.append(original(**kwargs))
        return files[-1]

    original = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", remembered)
    monkeypatch.setattr(gene_median, "_medians_of_gene", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(vocabulary, cells, slots, max_bytes=0)
    assert len(files) == 2
    assert all(file.closed for file in files)


def test_values_that_fit_neither_memory_nor_disk_are_refused_with_remedies(vocabulary, cells, slots, monkeypatch):
    monkeypatch.setattr(gene_median.shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000}))
    with pytest.raises(DataError, match=r"genes=\[\.\.\.\].*sample=.*TMPDIR"):
        run(vocabulary, cells, slots, max_bytes=100)
