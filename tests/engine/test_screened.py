"""Estimates and exact runs of whole cells, whatever the order of the cells and the size of a block."""

import numpy as np
import pytest
from toys import make_bert, make_vocabulary

from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.perturbation import perturbed_cells, screened
from scgeneformer._engine.perturbation.edits import NO_VALUES
from scgeneformer._engine.perturbation.perturbed_cells import Plan, cut_blocks
from scgeneformer._engine.perturbation.screened import screened_scan
from scgeneformer._engine.perturbation.shifts import Asked

VOCABULARY = make_vocabulary(100, input_size=60)
N_EXACT = 5


@pytest.fixture
def scanned(monkeypatch):
    """Function (order of the cells, entering genes) -> shift and whether it is exact, by cell and gene."""
    monkeypatch.setattr(screened, "EXACT_BELOW", 0)
    bert = use_own_kernels(make_bert(VOCABULARY)).requires_grad_(False)
    rng = np.random.default_rng(0)
    cells = [(i, rng.permutation(VOCABULARY.tokens)[:n], NO_VALUES) for i, n in enumerate([60, 50, 40])]

    def run(order, plan):
        found = {}

        def done(block, results):
            keys = zip(results["cell"].tolist(), results["column"].tolist(), strict=True)
            found.update(zip(keys, zip(results["shift_L2"], results["exact"], strict=True), strict=True))

        blocks = cut_blocks([cells[i] for i in order], plan, VOCABULARY, split=False)
        passed = ([bert], [2], 500, Asked("mean"), done)
        screened_scan(blocks, plan, VOCABULARY, *passed, n_exact=N_EXACT)
        return found

    return run


@pytest.mark.parametrize("size", [100, 4000, 2**22])
def test_a_screen_gives_the_same_whatever_the_order_of_the_cells_and_the_blocks(scanned, monkeypatch, size):
    expected = scanned([0, 1, 2], Plan("delete", None))
    monkeypatch.setattr(perturbed_cells, "TOKENS_PER_BLOCK", size)
    for order in ([0, 1, 2], [2, 1, 0]):
        found = scanned(order, Plan("delete", None))
        assert found.keys() == expected.keys()
        for key, (shift, exact) in found.items():
            assert exact == expected[key][1]
            assert shift == pytest.approx(expected[key][0], rel=1e-4)
        for cell in range(3):
            assert sum(exact for (i, _), (_, exact) in found.items() if i == cell) == N_EXACT


def test_genes_that_enter_are_exact_in_addition_in_as_many_blocks_as_it_takes(scanned, monkeypatch):
    plan = Plan("overexpress", VOCABULARY.tokens)
    expected = scanned([0, 1, 2], plan)
    monkeypatch.setattr(perturbed_cells, "TOKENS_PER_BLOCK", 500)
    found = scanned([0, 1, 2], plan)
    assert len(found) == len(expected) == 3 * 100
    for cell, n_genes in enumerate([60, 50, 40]):
        assert sum(exact for (i, _), (_, exact) in found.items() if i == cell) == 100 - n_genes + N_EXACT
    for key, (shift, exact) in found.items():
        assert exact == expected[key][1]
        assert shift == pytest.approx(expected[key][0], rel=1e-4, abs=1e-7)
