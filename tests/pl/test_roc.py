"""The ROC plot of held-out genes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import scgeneformer as gf
from scgeneformer._errors import MissingKeyError
from scgeneformer._training.gene_scores import curves


def with_curves(adata, classes):
    rng = np.random.default_rng(0)
    n, folds = len(classes), np.repeat([0, 1, 2], 20)
    adata.uns["geneformer_dosage_evaluation"] = {
        "roc": curves(np.resize(range(n), 60), rng.dirichlet(np.ones(n), 60), folds, list(classes))
    }
    return adata.uns["geneformer_dosage_evaluation"]["roc"]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_mean_and_each_fold_are_drawn(adata):
    found = with_curves(adata, "ab")
    ax = gf.pl.roc(adata, "dosage", show=False)
    diagonal, mean, *folds = [line.get_ydata() for line in ax.lines]
    assert list(diagonal) == [0, 1]
    np.testing.assert_array_equal(mean, found["mean_tpr"][0])
    np.testing.assert_array_equal(folds, found["tpr"][0])
    (text,) = ax.get_legend().get_texts()
    assert text.get_text() == f"a: {found['mean_auc'][0]:.3f} ± {found['auc_sd'][0]:.3f}"


def test_more_classes_have_a_mean_curve_each(adata):
    with_curves(adata, "abc")
    fig, ax = plt.subplots()
    assert gf.pl.roc(adata, "dosage", ax=ax) is ax
    assert len(ax.lines) == 4
    assert [text.get_text()[0] for text in ax.get_legend().get_texts()] == ["a", "b", "c"]
    assert gf.pl.roc(adata, "dosage", ax=ax, return_fig=True) is fig


def test_nothing_stored_is_told_with_what_to_run(unchanged):
    with pytest.raises(MissingKeyError, match=r"Run gf\.tl\.train_gene_classifier\(adata, classes\) first"):
        gf.pl.roc(unchanged, "dosage")
