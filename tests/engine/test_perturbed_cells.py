"""What is run: blocks of perturbed cells, and what each perturbation does to the cell."""

import numpy as np
import pytest
import torch
from toys import make_bert, make_vocabulary

from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.perturbation import perturbed_cells as module
from scgeneformer._engine.perturbation.edits import NO_VALUES, Edit
from scgeneformer._engine.perturbation.perturbed_cells import UNPERTURBED, PerturbedCells, Plan, blocks_of, cut_blocks
from scgeneformer._engine.perturbation.scan import scan
from scgeneformer._engine.perturbation.shifts import Asked

SMALL = make_vocabulary(10, input_size=4)  # tokens 2 to 11
CELL = (0, np.arange(2, 8, dtype=np.int32), np.arange(6, 0, -1).astype(float))  # two genes beyond the cut


def jobs_of(cells, plan, vocabulary, **kwargs):
    """Edited genes by column, and the columns of cells that stay as they are."""
    begun = []
    cells = PerturbedCells(cut_blocks(cells, plan, vocabulary), plan, vocabulary, lambda *x: begun.append(x), **kwargs)
    for _ in cells:
        pass
    found = {job.column: job.edited.ids.tolist() for job in cells.jobs.values() if job.column != UNPERTURBED}
    return found, [job.column for _, _, unchanged in begun for job in unchanged]


def test_a_combination_that_sets_a_value_leaves_the_perturbations_beside_it_alone():
    without_5 = (Edit("set", (5,), (0.0,)),)
    singles = np.array([3], dtype=np.int32)
    found, _ = jobs_of([CELL], Plan("delete", singles, combinations=(without_5,)), SMALL, needs_others=True)
    assert found == {3: [2, 4, 5], SMALL.n_tokens: [2, 3, 4, 6]}  # only where a value is set, the next gene moves in
    found, _ = jobs_of([CELL], Plan("delete", singles, refill=True), SMALL, needs_others=True)
    assert found == {3: [2, 4, 5, 6]}


@pytest.mark.parametrize(
    ("plan", "whole"),
    [
        (Plan("delete", None), False),
        (Plan("delete", None, refill=True), True),
        (Plan("set", np.array([3])), True),
        (Plan("delete", None, combinations=((Edit("delete", (2,)),), (Edit("set", (2,), (1.0,)),))), True),
    ],
)
def test_genes_beyond_the_cut_are_asked_for_where_any_perturbation_needs_them(plan, whole):
    assert plan.whole_cells == whole


@pytest.mark.parametrize("measure", ["genes", "cls", "mean"])
def test_a_cell_that_keeps_no_other_gene_is_left_out_only_if_genes_are_compared(measure):
    """The only gene of the cell is overexpressed together with another one."""
    vocabulary = make_vocabulary(10, special=True)
    both = (Edit("overexpress", (6, 7)),)
    plan, cell = (
        Plan("overexpress", np.empty(0, np.int32), combinations=(both,)),
        (0, np.array([6], np.int32), NO_VALUES),
    )
    found: list[dict] = []
    scan(
        cut_blocks([cell], plan, vocabulary),
        plan,
        vocabulary,
        [use_own_kernels(make_bert(vocabulary)).requires_grad_(False)],
        [2],
        100,
        Asked(measure),
        lambda block, results: found.append(results),
    )
    if measure == "genes":
        assert not len(found[0]["cell"])
        return
    stock, pooled = make_bert(vocabulary).double(), []
    for genes in ([6], [6, 7]):
        with torch.no_grad():
            state = stock(torch.tensor([[2, *genes, 3]]), output_hidden_states=True).hidden_states[2][0]
        pooled.append(state[0] if measure == "cls" else state[1:-1].mean(dim=0))
    expected = 1 - torch.cosine_similarity(*pooled, dim=0).item()
    assert found[0]["shift_L2"].tolist() == pytest.approx([expected], abs=1e-6)


def columns_by_block(blocks):
    return [{part.cell: part.columns.tolist() for part in block.parts} for block in blocks]


def test_a_block_is_full_in_the_midst_of_a_cell_or_behind_it(monkeypatch):
    monkeypatch.setattr(module, "TOKENS_PER_BLOCK", 12)
    cells = [(i, ids, NO_VALUES) for i, ids in enumerate([np.arange(2, 5), np.arange(2, 6), np.arange(2, 4)])]
    plan = Plan("delete", None)
    split = [{0: [2, 3, 4], 1: [2]}, {1: [3, 4, 5]}, {2: [2, 3]}]  # tokens: 9 + 4, 12, 4
    assert columns_by_block(cut_blocks(cells, plan, SMALL)) == split
    whole = list(cut_blocks(cells, plan, SMALL, split=False))
    assert columns_by_block(whole) == [{0: [2, 3, 4], 1: [2, 3, 4, 5]}, {2: [2, 3]}]
    assert [block.number for block in whole] == [0, 1]
    assert sum(block.n_cells for block in whole) == pytest.approx(3)
    assert columns_by_block(blocks_of([], SMALL)) == [{}]  # one block, so that there are results
