from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer._engine.perturbation.edits import EDITS, ENTERED, Edit, perturb_cell, ranked

MAX = 8
CELL = [10, 11, 12, 13]  # tokens by rank


def edit(mode, *targets, to=(), cell=CELL, values=(), refill=False, max_genes=MAX):
    genes = ranked(np.array(cell, dtype=np.int32), np.array(values, dtype=float))
    return perturb_cell(genes, [Edit(mode, targets, to)], max_genes, refill)


def ids(*args, **kwargs):
    found = edit(*args, **kwargs)
    return None if found is None else found.ids.tolist()


@pytest.mark.parametrize(
    ("mode", "targets", "to", "expected", "origin"),
    [
        ("delete", (12,), (), [10, 11, 13], [0, 1, 3]),
        ("delete", (10, 13), (), [11, 12], [1, 2]),
        ("overexpress", (13,), (), [13, 10, 11, 12], [3, 0, 1, 2]),
        ("overexpress", (99,), (), [99, 10, 11, 12, 13], [ENTERED, 0, 1, 2, 3]),
        ("overexpress", (13, 99, 11), (), [13, 99, 11, 10, 12], [3, ENTERED, 1, 0, 2]),
        ("activate", (12,), (), [10, 12, 11, 13], [0, 2, 1, 3]),  # a quarter of four genes is one rank
        ("activate", (13,), (0,), [13, 10, 11, 12], [3, 0, 1, 2]),
        ("inhibit", (10,), (), [11, 10, 12, 13], [1, 0, 2, 3]),
        ("inhibit", (10,), (3,), [11, 12, 13, 10], [1, 2, 3, 0]),
        ("inhibit", (10, 11), (3, 3), [12, 13, 10, 11], [2, 3, 0, 1]),
        ("activate", (12, 13), (0, 0), [12, 13, 10, 11], [2, 3, 0, 1]),
        ("mask", (11,), (1,), [10, 1, 12, 13], [0, 1, 2, 3]),
        ("pad", (10, 13), (0, 0), [0, 11, 12, 0], [0, 1, 2, 3]),
        ("replace", (10,), (77,), [77, 11, 12, 13], [0, 1, 2, 3]),
    ],
)
def test_each_mode_by_hand(mode, targets, to, expected, origin):
    found = edit(mode, *targets, to=to)
    assert found.ids.tolist() == expected
    assert found.origin.tolist() == origin
    others = [i for i, token in enumerate(expected) if token in CELL and token not in targets]
    assert found.shared.tolist() == others


def test_the_example_of_cellarium_gives_its_sequences():
    """Tokens 2, 3, 4, 5 with values 4, 3, 2, 1: activating 5, deleting 4, mapping 2 and 3 to 1."""
    cell = [2, 3, 4, 5]
    assert ids("overexpress", 5, cell=cell) == [5, 2, 3, 4]
    assert ids("delete", 4, cell=cell) == [2, 3, 5]
    assert ids("replace", 2, 3, to=(1, 1), cell=cell) == [1, 1, 4, 5]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        (9.0, [12, 10, 11, 13]),
        (3.5, [10, 12, 11, 13]),
        (3.0, [10, 11, 12, 13]),  # a tie with 11, which has the smaller token
        (0.5, [10, 11, 13, 12]),
        (0.0, [10, 11, 13]),
    ],
)
def test_set_ranks_all_genes_anew_and_ties_by_token(to, expected):
    assert ids("set", 12, to=(to,), values=[4, 3, 2, 1], refill=True) == expected


def test_set_lets_a_gene_enter_and_the_last_one_leave():
    found = edit("set", 99, to=(3.5,), values=[4, 3, 2, 1], refill=True, max_genes=4)
    assert found.ids.tolist() == [10, 99, 11, 12]
    assert found.origin.tolist() == [0, ENTERED, 1, 2]
    assert found.shared.tolist() == [0, 2, 3]
    assert found.n_original == 4


def test_refill_lets_the_next_gene_move_in_which_is_not_compared():
    cell = [10, 11, 12, 13, 14]
    found = edit("delete", 11, cell=cell, refill=True, max_genes=4)
    assert found.ids.tolist() == [10, 12, 13, 14]
    assert found.shared.tolist() == [0, 1, 2]  # 14 was beyond the cut before
    assert ids("delete", 11, cell=cell, max_genes=4) == [10, 12, 13]


def test_a_gene_that_enters_a_full_cell_pushes_out_the_last_and_the_comparison_leaves_it_out():
    found = edit("overexpress", 99, max_genes=4)
    assert found.ids.tolist() == [99, 10, 11, 12]
    assert found.n_original == 3
    assert edit("overexpress", 13, max_genes=4).n_original == 4  # it was there: nothing is pushed out


@pytest.mark.parametrize("mode", [mode for mode, kind in EDITS.items() if not kind.everywhere])
def test_what_needs_the_gene_does_not_apply_without_it(mode):
    to = (0,) if EDITS[mode].to else ()
    assert edit(mode, 99, to=to) is None
    assert edit(mode, 10, 99, to=to * 2) is None
    assert edit(mode, 13, to=to, max_genes=3, refill=True) is None  # beyond the cut


def test_nothing_is_left_of_a_cell():
    assert edit("delete", *CELL) is None
    assert edit("delete", 10, cell=[]) is None
    assert edit("overexpress", 10, cell=[]) is None
    assert edit("overexpress", 90, 91, 92, 93, max_genes=4) is None  # nor of the one to compare with


def test_several_modes_are_applied_in_the_order_of_the_table_whatever_that_of_the_call():
    edits = [Edit("mask", (11,), (1,)), Edit("activate", (13,), (0,)), Edit("delete", (10,))]
    for order in permutations(edits):
        found = perturb_cell(ranked(np.array(CELL, dtype=np.int32)), order, MAX)
        assert found.ids.tolist() == [13, 1, 12]
        assert found.shared.tolist() == [2]


def test_a_gene_moves_by_a_quarter_of_the_cell_within_its_limits():
    cell = list(range(100, 120))  # 20 genes: five ranks
    assert ids("activate", 110, cell=cell, max_genes=20).index(110) == 5
    assert ids("activate", 103, cell=cell, max_genes=20).index(103) == 0
    assert ids("inhibit", 110, cell=cell, max_genes=20).index(110) == 15
    assert ids("inhibit", 118, cell=cell, max_genes=20).index(118) == 19


def test_what_there_is_to_know_about_each_mode():
    """What other parts rely on: where a mode applies, whether positions can be held, what `to` means."""
    assert [mode for mode, kind in EDITS.items() if kind.everywhere] == ["set", "overexpress"]
    assert [mode for mode, kind in EDITS.items() if kind.in_place] == ["delete", "mask", "pad", "replace"]
    assert [mode for mode, kind in EDITS.items() if kind.needs_to] == ["set", "replace"]
    ranks, tokens = dict.fromkeys(["inhibit", "activate"], "rank"), dict.fromkeys(["mask", "pad", "replace"], "token")
    assert {mode: kind.to for mode, kind in EDITS.items() if kind.to} == {"set": "value", **ranks, **tokens}


def test_a_rank_beyond_the_last_is_the_last():
    assert ids("inhibit", 10, to=(99,)) == [11, 12, 13, 10]


def test_a_gene_that_is_beyond_the_rank_already_stays():
    assert ids("activate", 10, to=(2,)) == CELL
    assert ids("inhibit", 13, to=(1,)) == CELL


@pytest.mark.parametrize(
    ("mode", "targets", "to", "expected"),
    [
        ("activate", (12, 10), (0, 0), [10, 12, 11, 13]),  # 10 is there already, whatever the order of the list
        ("activate", (13, 11), (0, 1), [13, 11, 10, 12]),
        ("activate", (13, 12, 11), (0, 0, 1), [12, 11, 13, 10]),  # 11 cannot move down
        ("inhibit", (11, 13), (3, 3), [10, 12, 11, 13]),
        ("inhibit", (10, 12), (3, 2), [11, 13, 12, 10]),
        ("inhibit", (10, 11, 12), (3, 3, 2), [13, 10, 12, 11]),
    ],
)
def test_genes_that_want_one_rank_keep_their_order_and_never_move_against_the_mode(mode, targets, to, expected):
    assert ids(mode, *targets, to=to) == expected


def first_free(cell, targets, wanted):
    """For each target, in the order of the cell, the first free place from the wanted one on; others fill the rest."""
    places = [None] * len(cell)
    for target in (token for token in cell if token in targets):
        place = min(wanted[targets.index(target)], cell.index(target))
        while places[place] is not None:
            place += 1
        places[place] = target
    others = iter([token for token in cell if token not in targets])
    return [next(others) if token is None else token for token in places]


@given(data=st.data(), n=st.integers(1, 12))
def test_several_genes_move_only_as_the_mode_says(data, n):
    cell = list(range(10, 10 + n))
    targets = data.draw(st.lists(st.sampled_from(cell), min_size=1, unique=True))
    to = data.draw(st.lists(st.integers(0, n + 2), min_size=len(targets), max_size=len(targets)))
    up = ids("activate", *targets, to=to, cell=cell, max_genes=n)
    assert up == first_free(cell, targets, to)
    assert all(up.index(token) <= cell.index(token) for token in targets)
    down = ids("inhibit", *targets, to=to, cell=cell, max_genes=n)
    assert all(down.index(token) >= cell.index(token) for token in targets)
    turned = [max(0, n - 1 - rank) for rank in to]
    assert down[::-1] == ids("activate", *targets, to=turned, cell=cell[::-1], max_genes=n)


@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 1000),
    mode=st.sampled_from(["delete", "overexpress", "activate", "inhibit", "mask"]),
)
def test_no_gene_is_lost_or_doubled_and_origins_are_true(n, seed, mode):
    rng = np.random.default_rng(seed)
    cell = rng.permutation(np.arange(10, 10 + n)).astype(np.int32)
    targets = tuple(rng.choice(cell, min(n, 2), replace=False).tolist())
    found = perturb_cell(ranked(cell), [Edit(mode, targets, (1,) * len(targets) if mode == "mask" else ())], 20)
    if found is None:
        assert mode == "delete"
        assert n <= 2
        return
    there = found.origin >= 0
    if mode != "mask":
        np.testing.assert_array_equal(found.ids[there], cell[found.origin[there]])
        expected = set(cell.tolist()) - (set(targets) if mode == "delete" else set())
        assert sorted(found.ids.tolist()) == sorted(expected)
    kept = [token for token in cell.tolist() if token not in targets]
    assert [token for token in found.ids.tolist() if token in kept] == kept  # the others keep their order
    assert found.ids[found.shared].tolist() == kept
