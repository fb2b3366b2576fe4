"""Which cells train, validate and test."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scgeneformer._errors import DataError
from scgeneformer._training.folds import folds, gene_folds
from scgeneformer._training.splits import NONE, TEST, TRAIN, check_train, split

FRACTIONS = (0.8, 0.1, 0.1)


def shares(parts):
    return np.bincount(parts[parts >= 0], minlength=3) / (parts >= 0).sum()


@st.composite
def cells_in_units(draw):
    """Classes and units of cells, every class in at least three units."""
    n_units, n_classes = draw(st.integers(4, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    unit = rng.integers(0, n_units, draw(st.integers(60, 300)))
    classes = rng.integers(0, n_classes, len(unit))
    everywhere = np.indices((n_units, n_classes)).reshape(2, -1)
    return np.append(classes, everywhere[1]), np.append(unit, everywhere[0])


# --- cells ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=200), st.integers(0, 5))
def test_each_class_is_divided_by_itself(codes, seed):
    classes = np.array(codes)
    parts = split(classes, None, FRACTIONS, seed)
    assert ((parts == NONE) == (classes < 0)).all()
    for code in range(5):
        n, sizes = (classes == code).sum(), np.bincount(parts[classes == code], minlength=3)
        assert sizes.sum() == n
        assert (sizes[TRAIN] > 0) == (n > 0)
        assert (sizes[TEST] > 0) == (n > 1)
        assert n < 20 or (np.abs(sizes - n * np.array(FRACTIONS)) < 1).all()


def test_small_classes_train_first():
    found = {n: tuple(np.bincount(split(np.zeros(n, int), None, FRACTIONS, 0), minlength=3)) for n in (1, 2, 3, 4, 10)}
    assert found == {1: (1, 0, 0), 2: (1, 0, 1), 3: (1, 1, 1), 4: (2, 1, 1), 10: (8, 1, 1)}
    assert tuple(np.bincount(split(np.zeros(5, int), None, (0.6, 0, 0.4), 0), minlength=3)) == (3, 0, 2)
    assert (split(np.zeros(5, int), None, (1, 0, 0), 0) == TRAIN).all()


def test_several_tasks_are_balanced_together():
    first, second = np.repeat([0, 1], 100), np.tile([0, 1, 2, -1], 50)
    parts = split(np.stack([first, second], axis=1), None, (0.6, 0.2, 0.2), 0)
    for i, j in itertools.product((0, 1), (0, 1, 2, -1)):
        assert np.bincount(parts[(first == i) & (second == j)]).tolist() == [15, 5, 5]


def test_the_seed_decides():
    classes = np.zeros(200, dtype=int)
    one, same, other = (split(classes, None, FRACTIONS, seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


# --- units ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(cells_in_units(), st.integers(0, 3))
def test_units_are_whole_every_class_trains_and_no_part_is_empty(cells, seed):
    classes, unit = cells
    parts = split(classes, unit, FRACTIONS, seed)
    assert all(len(set(parts[unit == number])) == 1 for number in set(unit))
    assert set(classes[parts == TRAIN]) == set(classes)
    assert set(parts) == {0, 1, 2}
    assert (split(classes, unit, FRACTIONS, seed) == parts).all()


@settings(max_examples=30, deadline=None)
@given(cells_in_units(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(cells, random):
    classes, unit = cells
    order = np.array(random.sample(range(len(unit)), len(unit)))
    parts = split(classes, unit, FRACTIONS, 0)
    assert (split(classes[order], unit[order], FRACTIONS, 0) == parts[order]).all()


def loss(classes, parts, fractions):
    """Squared distance from the fractions, in all cells and on average over the classes, as the docstring says."""
    in_classes = [((shares(parts[classes == code]) - fractions) ** 2).sum() for code in np.unique(classes)]
    return ((shares(parts) - fractions) ** 2).sum() + np.mean(in_classes)


@pytest.mark.parametrize("seed", range(2))
def test_few_units_are_divided_as_well_as_by_trying_all_ways(seed):
    rng = np.random.default_rng(seed)
    unit = rng.choice(7, 200, p=rng.dirichlet(np.full(7, 3)))
    classes, fractions = (rng.random(200) < 0.2 + 0.1 * unit).astype(int), np.array([0.6, 0.2, 0.2])
    found = split(classes, unit, fractions, 0)
    best = np.inf
    for ways in itertools.product(range(3), repeat=7):
        parts = np.array(ways)[unit]
        if len(set(ways)) == 3 and set(classes[parts == TRAIN]) == set(classes):
            best = min(best, loss(classes, parts, fractions))
    assert best <= loss(classes, found, fractions) <= best + 0.01


def test_many_units_come_near_to_the_fractions_in_little_time():
    rng = np.random.default_rng(0)
    unit, classes = rng.integers(0, 5000, 100_000), rng.integers(0, 20, 100_000)
    start = time.perf_counter()
    parts = split(classes, unit, FRACTIONS, 0)
    assert time.perf_counter() - start < 20
    np.testing.assert_allclose(shares(parts), FRACTIONS, atol=0.002)
    np.testing.assert_allclose([shares(parts[classes == code]) for code in range(20)], [FRACTIONS] * 20, atol=0.02)


def test_the_only_unit_of_a_class_trains():
    unit = np.repeat([0, 1, 2, 3], 10)
    classes = np.where(unit == 2, 1, 0)
    for seed in range(5):
        parts = split(classes, unit, (0.5, 0.25, 0.25), seed)
        assert (parts[unit == 2] == TRAIN).all()


def test_units_that_can_leave_only_together_with_the_right_others_do_so():
    """Classes x: 0 1, y: 1 2, z: 2 3, w: 0 3 leave 0 and 2, or 1 and 3, as the only pairs."""
    unit = np.repeat([0, 1, 2, 3], 2)
    classes = np.array([0, 3, 0, 1, 1, 2, 2, 3])
    for seed in range(5):
        held_out = {int(u) for u in unit[split(classes, unit, FRACTIONS, seed) != TRAIN]}
        assert held_out in ({0, 2}, {1, 3})


def test_cells_without_a_label_are_in_no_part_and_need_no_unit():
    classes = np.array([0, 0, 1, 1, 0, 1, -1])
    unit = np.array([0, 1, 0, 1, 2, 2, -1])
    assert split(classes, unit, (0.4, 0.3, 0.3), 0)[-1] == NONE
    with pytest.raises(DataError, match="1 of 6 cells with a label belong to no unit"):
        split(classes, np.array([0, -1, 0, 1, 2, 2, 0]), FRACTIONS, 0)


def test_units_that_cannot_be_divided_are_refused():
    with pytest.raises(DataError, match=r"There are 2 units to divide into 3 parts.*fractions=\(0.8, 0, 0.2\)"):
        split(np.zeros(4, int), np.array([0, 0, 1, 1]), FRACTIONS, 0)
    with pytest.raises(DataError, match="3 units cannot be divided into train, test: too many of them are the only"):
        split(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2]), (0.8, 0, 0.2), 0)


@pytest.mark.parametrize(
    ("fractions", "text"),
    [
        ((0.8, 0.2), "must be three numbers: of train, validation, test"),
        (0.8, "must be three numbers"),
        (("a", "b", "c"), "must be three numbers"),
        ((0.8, np.nan, 0.2), "must be three numbers"),
        ((0.8, 0.1, 0.2), r"must add up to 1 \(they give 1.1\)"),
        ((1.1, -0.1, 0), "none negative"),
        ((0, 0.5, 0.5), "leave no cell to train on"),
    ],
)
def test_bad_fractions_are_refused(fractions, text):
    with pytest.raises(DataError, match=text):
        split(np.zeros(9, int), None, fractions, 0)


# --- folds ----------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(cells_in_units(), st.integers(2, 3))
def test_folds_keep_units_whole_and_classes_on_both_sides(cells, n_folds):
    classes, unit = cells
    of_cell = folds(classes, unit, n_folds, 0)
    assert set(of_cell) == set(range(n_folds))
    assert all(len(set(of_cell[unit == number])) == 1 for number in set(unit))
    for fold in range(n_folds):
        assert set(classes[of_cell != fold]) == set(classes)


def test_folds_of_cells_have_the_same_classes():
    classes = np.append(np.repeat([0, 1, 2], (50, 25, 10)), -1)
    of_cell = folds(classes, None, 5, 0)
    assert of_cell[-1] == NONE
    for fold in range(5):
        assert np.bincount(classes[of_cell == fold]).tolist() == [10, 5, 2]
    assert (folds(classes, None, 5, 0) == of_cell).all()
    assert (folds(classes, None, 5, 1) != of_cell).any()


def test_folds_that_a_class_or_the_units_cannot_fill_are_refused():
    with pytest.raises(DataError, match="at most the number of units with a label, 2"):
        folds(np.zeros(4, int), np.array([0, 0, 1, 1]), 3, 0)
    with pytest.raises(DataError, match=r"No cell of 'rare' would be on the training side, while fold \d is the test"):
        folds(np.array([0, 0, 0, 0, 1, 0]), None, 2, 0, names=["many", "rare"])


def test_gene_folds_share_out_every_class():
    classes = np.append(np.repeat([0, 1], (20, 10)), -1)
    of_gene = gene_folds(classes, 5)
    assert of_gene[-1] == NONE
    for fold in range(5):
        assert np.bincount(classes[of_gene == fold]).tolist() == [4, 2]
    with pytest.raises(DataError, match="every class needs at least 5 genes and one per fold; the smallest has 4"):
        gene_folds(np.repeat([0, 1], (20, 4)), 4)


def test_a_class_that_does_not_train_is_named_also_where_an_earlier_task_lacks_its_last_class():
    classes = np.array([[0, 0], [1, 0], [0, 1]])
    with pytest.raises(DataError, match="No cell of 'b', 'y' would be on the training side"):
        check_train(classes, np.array([True, False, False]), ["a", "b", "x", "y"])
    check_train(classes, np.array([False, True, True]), ["a", "b", "x", "y"])


def test_more_folds_than_the_largest_class_has_cells_are_refused():
    with pytest.raises(DataError, match="n_folds=4 is more than the largest class has cells, 3"):
        folds(np.repeat([0, 1], 3), None, 4, 0)
    assert sorted(folds(np.repeat([0, 1], 3), None, 3, 0)[:3].tolist()) == [0, 1, 2]
