"""Splits of an AnnData, made or read."""

from __future__ import annotations

import numpy as np
import pytest
from toys import make_adata

from scgeneformer._adata.training.labels import find_labels
from scgeneformer._adata.training.split import find_split
from scgeneformer._errors import DataError, MissingKeyError


@pytest.fixture
def adata():
    found = make_adata(60)
    found.obs["donor"] = np.resize([f"donor {i}" for i in range(6)], 60)
    found.obs["cell_type"] = np.repeat(["a", "b"], 30)
    found.obs["part"] = np.resize(["Train", "training", "val", "test"], 60)
    return found


def parts_of(adata, **arguments):
    return find_split(adata, find_labels(adata, "cell_type"), **arguments)


@pytest.mark.parametrize("arguments", [{}, {"split_by": "donor"}, {"n_folds": 3}, {"n_folds": 3, "split_by": "donor"}])
def test_order_of_the_rows_and_of_the_columns_do_not_matter(adata, arguments):
    shuffled = adata[np.random.default_rng(0).permutation(60)].copy()
    one, other = parts_of(adata, **arguments), parts_of(shuffled, **arguments)
    by_name = dict(zip(shuffled.obs_names, other.parts, strict=True))
    assert [by_name[name] for name in adata.obs_names] == one.parts.tolist()
    assert one.record["checksum"] == other.record["checksum"]


def test_without_a_label_the_cells_are_just_divided(adata):
    found = find_split(adata, None, fractions=(0.5, 0.25, 0.25))
    assert np.bincount(found.parts).tolist() == [30, 15, 15]


def test_a_column_gives_the_split(adata):
    adata.obs.loc["cell3", "part"] = None
    found = parts_of(adata, split="part")
    assert found.parts[:5].tolist() == [0, 0, 1, -1, 0]
    assert found.record["column"] == "part"
    assert found.column[0] == "train"
    adata.obs["fold"] = np.where(adata.obs["part"].isna(), np.nan, np.resize([0, 1, 2], 60))  # as numbers beside NaN
    found = parts_of(adata, split="fold", n_folds=3)
    assert found.parts[:5].tolist() == [0, 1, 2, -1, 1]
    assert found.column.categories.tolist() == ["0", "1", "2"]


def test_a_split_that_was_made_is_the_same_when_it_is_read(adata):
    made = parts_of(adata, split_by="donor")
    adata.obs["made"] = made.column
    read = parts_of(adata, split="made", split_by="donor")
    assert (made.parts == read.parts).all()
    assert made.record["checksum"] == read.record["checksum"]


def test_cells_without_a_label_are_in_no_part(adata):
    adata.obs.loc["cell0", "cell_type"] = None
    for arguments in ({}, {"split": "part"}, {"n_folds": 3}):
        assert parts_of(adata, **arguments).parts[0] == -1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"split": "x"}, "split='x' is no column of adata.obs"),
        ({"split_by": "x"}, "split_by='x' is no column of adata.obs"),
        ({"split": "donor"}, "holds 'donor 0'; it must hold train, validation, test"),
        ({"split": "donor", "n_folds": 3}, "must hold with n_folds=3 folds from 0 to 2"),
        ({"split": "part", "split_by": "donor"}, r"puts cells of 'donor 0' \(donor\) into several parts"),
        ({"split": "class_part"}, "No cell of 'b' would be on the training side. Set the labels"),
        (
            {"split": "two_folds", "n_folds": 3},
            r"Each of the 3 folds must have a cell with a label; they have \[30, 30",
        ),
        ({"fractions": (0.8, 0.3)}, "must be three numbers"),
        ({"n_folds": 1}, "n_folds=1 must be a whole number of at least 2"),
        ({"n_folds": 61}, "at most the number of cells with a label, 60"),
        ({"seed": -1}, "seed=-1 must be a whole number"),
        ({"split_by": "few"}, "There are 2 units to divide into 3 parts"),
    ],
)
def test_what_cannot_be_split_is_refused(adata, arguments, text):
    adata.obs["class_part"] = np.where(adata.obs["cell_type"] == "b", "test", "train")
    adata.obs["two_folds"] = np.resize([0, 1], 60)
    adata.obs["few"] = np.resize(["u", "v"], 60)
    with pytest.raises((DataError, MissingKeyError), match=text):
        parts_of(adata, **arguments)


def test_classes_that_a_part_lacks_are_told(log):
    adata = make_adata(60)
    adata.obs["donor"] = np.repeat(["x", "y", "z"], 20)
    adata.obs["cell_type"] = np.r_[np.resize(["a", "b"], 40), np.repeat("a", 20)]
    adata.obs["part"] = np.repeat(["train", "validation", "test"], 20)
    parts_of(adata, split="part", split_by="donor")
    assert "no test cell of cell_type: 'b'" in log()
    assert "no validation cell" not in log()


def test_a_cell_of_an_unknown_donor_is_refused_unless_it_has_no_label(adata):
    adata.obs.loc["cell7", "donor"] = np.nan
    with pytest.raises(DataError, match=r"1 cells with a label have no value in donor \(split_by=\).*notna"):
        parts_of(adata, split_by="donor")
    adata.obs.loc["cell7", "cell_type"] = np.nan
    assert parts_of(adata, split_by="donor").parts[7] == -1
