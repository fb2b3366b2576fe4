"""Labels of cells as a classifier learns them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.training.labels import find_labels
from scgeneformer._errors import DataError, MissingKeyError


@pytest.mark.parametrize(
    ("values", "classes", "codes"),
    [
        (["b", "a", None, "b"], ["a", "b"], [1, 0, -1, 1]),
        (pd.Categorical(["b", "a", None, "b"]), ["a", "b"], [1, 0, -1, 1]),
        (pd.Categorical(list("baab"), categories=list("bca"), ordered=True), ["b", "a"], [0, 1, 1, 0]),
        ([2, 10, 2, 10], ["10", "2"], [1, 0, 1, 0]),
        ([2.0, np.nan, 10.0, 2.0], ["10", "2"], [1, -1, 0, 1]),
        ([True, False, True, True], ["False", "True"], [1, 0, 1, 1]),
    ],
    ids=["text", "category", "ordered", "whole", "whole beside missing", "truth"],
)
def test_values_become_classes(adata, values, classes, codes):
    cells = adata[:8].copy()
    cells.obs["x"] = pd.Series(values).take([0, 1, 2, 3] * 2).array  # a class needs two cells
    found = find_labels(cells, "x")
    assert found.classes == classes
    assert found.codes.tolist() == codes * 2
    assert found.sizes.tolist() == [2 * codes.count(0), 2 * codes.count(1)]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([np.nan] * 4, r"All labels in adata.obs\['x'\] are missing"),
        (["a"] * 4, "has one class only, 'a': there is nothing to tell apart"),
        (["a", "a", "a", "b"], r"fewer than 2 cells: 'b' \(1\). Merge them with another class, or set"),
        ([0.5, 1.5, 0.5, 1.5], r"holds 0.5, which is no label .* pd.cut\(adata.obs\['x'\], 3\)"),
        ([("a",), ("b",)] * 2, r"Make it text: adata.obs\['x'\] = adata.obs\['x'\].astype\(str\)"),
        ([1, "1", 1, "1"], r"the same once they are text: \['1'\]"),
    ],
    ids=["missing", "one class", "one cell", "numbers", "tuples", "alike"],
)
def test_what_cannot_be_learned_is_refused(adata, values, text):
    cells = adata[:4].copy()
    cells.obs["x"] = pd.Series(values, index=cells.obs_names, dtype=object)
    with pytest.raises(DataError, match=text):
        find_labels(cells, "x")


def test_a_column_that_does_not_exist_is_refused_with_those_that_do(unchanged):
    with pytest.raises(MissingKeyError, match=r"label='x' is no column of adata.obs; the columns are: 'cell_type'"):
        find_labels(unchanged, "x")


def test_the_log_says_which_cells_have_no_label_and_which_labels_look_missing(adata, log):
    adata.obs["x"] = ["a", "nan", None] * 4
    assert find_labels(adata, "x").classes == ["a", "nan"]
    assert "4 of 12 cells have no label in x: they are in no part" in log()
    assert "x has classes named ['nan'], which look like missing labels" in log()


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_numbers_of_many_values_are_told_to_be_no_labels(dtype, log):
    adata = ad.AnnData(np.ones((210, 1), dtype=np.float32))
    for n in (20, 21):
        adata.obs["n_counts"] = np.resize(np.arange(n), 210).astype(dtype)
        find_groups(adata, "n_counts")
        assert "looks like a number" not in log()  # as donors may be: each has ten cells
    some = adata[:209].copy()
    find_labels(some, "n_counts")
    assert "adata.obs['n_counts'] (21 values in 209 cells) looks like a number, not a label." in log()
    some.obs["n_counts"] = some.obs["n_counts"].astype(str)
    find_groups(some, "n_counts")
    assert log().count("looks like a number") == 1


def test_of_many_small_classes_the_first_are_listed():
    adata = ad.AnnData(np.ones((30, 1), dtype=np.float32), obs={"label": [f"c{i:02d}" for i in range(30)]})
    with pytest.raises(DataError, match=r"'c09' \(1\) and 20 more\. Merge them"):
        find_labels(adata, "label")
