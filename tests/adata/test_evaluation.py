"""The entry of `uns` that compares methods."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata.tests.helpers import assert_equal

from scgeneformer._adata.training.evaluation import TABLE, evaluation
from scgeneformer._adata.training.evaluation_frame import read_comparison
from scgeneformer._errors import DataError, MissingKeyError
from scgeneformer._training.scores import score

CLASSES = ["CD4+/CD25 T Reg", "T cell", "B"]
KEY = "geneformer_cell_type_evaluation"
SPLIT = {"split_by": np.array([], dtype=str), "fractions": np.array([0.8, 0.1, 0.1]), "seed": 42, "checksum": "abc"}


def scores(seed: int):
    rng = np.random.default_rng(seed)
    return score(rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40), CLASSES)


def add(adata, method: str, seed: int, split=SPLIT, classes=CLASSES):
    adata.uns[KEY] = evaluation(adata, KEY, classes, split, method, scores(seed), n_train=100)


@pytest.fixture
def compared(adata):
    add(adata, "fine-tuned", 0)
    add(adata, "logistic PCA", 1)
    return adata


def test_methods_on_the_same_cells_stand_beside_each_other(compared):
    found = read_comparison(compared, "cell_type")
    assert found.methods == ["fine-tuned", "logistic PCA"]
    assert found.classes == CLASSES
    assert found.table.columns.tolist() == list(TABLE)
    for number, (name, seed) in enumerate({"fine-tuned": 0, "logistic PCA": 1}.items()):
        one = scores(seed)
        assert found.table.loc[name, list(one.summary)].to_dict() == one.summary
        np.testing.assert_array_equal(found.confusion[number], one.confusion)
        rows = found.per_class[found.per_class["method"] == name]
        pd.testing.assert_frame_equal(rows.set_index("class")[one.per_class.columns], one.per_class, check_names=False)
        bins = found.reliability[found.reliability["method"] == name]
        pd.testing.assert_frame_equal(bins[one.reliability.columns].reset_index(drop=True), one.reliability)


def test_a_method_that_is_there_is_replaced(compared):
    before = compared.uns[KEY]
    table = before["table"].copy()
    add(compared, "fine-tuned", 2)
    found = read_comparison(compared, "cell_type")
    assert sorted(found.methods) == ["fine-tuned", "logistic PCA"]
    assert found.table.loc["fine-tuned", "log_loss"] == scores(2).summary["log_loss"]
    assert len(found.per_class) == 6
    np.testing.assert_array_equal(found.confusion[found.methods.index("fine-tuned")], scores(2).confusion)
    pd.testing.assert_frame_equal(before["table"], table)


@pytest.mark.parametrize(
    "other",
    [{"split": {**SPLIT, "checksum": "xyz"}}, {"split": {**SPLIT, "truth": "xyz"}}, {"classes": ["x", "T cell", "B"]}],
    ids=["cells", "truth", "classes"],
)
def test_other_cells_or_classes_replace_all_and_the_log_says_so(compared, other, log):
    add(compared, "knn PCA", 1, **other)
    assert read_comparison(compared, "cell_type").methods == ["knn PCA"]
    assert "was about other cells or labels, and begins anew" in log()


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_it_survives_storage_and_goes_on_after_it(compared, form, tmp_path):
    path = tmp_path / f"x.{form}"
    getattr(compared, f"write_{form}")(path)
    again = getattr(ad, f"read_{form}")(path)
    assert_equal(again.uns[KEY], compared.uns[KEY])
    add(again, "knn PCA", 3)
    add(compared, "knn PCA", 3)
    assert_equal(again.uns[KEY], compared.uns[KEY])
    assert read_comparison(again, "cell_type").methods == ["fine-tuned", "logistic PCA", "knn PCA"]


def test_methods_are_chosen_in_the_order_asked(compared):
    found = read_comparison(compared, "cell_type", ["logistic PCA", "fine-tuned"])
    assert found.methods == found.table.index.tolist() == ["logistic PCA", "fine-tuned"]
    np.testing.assert_array_equal(found.confusion[1], scores(0).confusion)
    assert read_comparison(compared, KEY, "fine-tuned").methods == ["fine-tuned"]


def test_what_does_not_exist_is_refused_with_what_does(compared):
    with pytest.raises(
        DataError, match=r"The method 'knn' does not exist.*the methods are: 'fine-tuned', 'logistic PCA'\."
    ):
        read_comparison(compared, "cell_type", "knn")
    with pytest.raises(MissingKeyError, match=rf"'geneformer_donor_evaluation'\] does not exist.*that do: '{KEY}'"):
        read_comparison(compared, "donor")
    del compared.uns[KEY]
    with pytest.raises(MissingKeyError, match=r"that do: none. Run gf.tl.probe\(adata, 'cell_type'\)"):
        read_comparison(compared, "cell_type")
