"""ROC curves of folds as in the reference, and scores of genes in cells and by gene."""

from __future__ import annotations

import numpy as np
import pytest

from scgeneformer._training.dataset import IGNORED, TokenDataset
from scgeneformer._training.gene_scores import curves, judge_genes
from scgeneformer._training.roc import FPR, fold_curve, mean_curve


def test_a_curve_is_that_computed_by_hand():
    """Scores 0.9 (+), 0.7 (-), 0.6 (+), 0.1 (-): corners (0, 0), (0, ½), (½, ½), (½, 1), (1, 1)."""
    tpr, auc, n = fold_curve(np.array([True, False, True, False]), np.array([0.9, 0.7, 0.6, 0.1]))
    assert (auc, n) == (0.75, 5)
    assert tpr[0] == 0
    np.testing.assert_allclose(tpr[1:50], 0.5)  # up to a rate of 49/99, just below one half
    np.testing.assert_allclose(tpr[50:], 1)


def test_folds_are_weighted_by_the_length_of_their_curves():
    tpr = np.stack([np.linspace(0, 1, 100), np.r_[0, np.full(99, 0.8)]])
    mean, auc, sd = mean_curve(tpr, np.array([0.5, 0.8]), np.array([1, 3]))
    np.testing.assert_allclose(mean[1:-1], (tpr[0] + 3 * tpr[1])[1:-1] / 4)
    assert mean[[0, -1]].tolist() == [0, 1]
    assert auc == pytest.approx(0.725)
    assert sd == pytest.approx(np.sqrt((0.225**2 + 3 * 0.075**2) / 4))


def test_two_classes_have_one_curve_and_three_have_three():
    rng = np.random.default_rng(0)
    truth, folds, probability = np.resize([0, 1, 2], 60), np.repeat([0, 1], 30), rng.dirichlet([1, 1, 1], 60)
    found = curves(truth, probability, folds, ["a", "b", "c"])
    assert found["tpr"].shape == (3, 2, 100)
    assert found["classes"].tolist() == ["a", "b", "c"]
    second = folds == 1
    assert found["auc"][2, 1] == fold_curve(truth[second] == 2, probability[second, 2])[1]
    two = curves(np.minimum(truth, 1), probability[:, :2], folds, ["a", "b"])
    assert two["tpr"].shape == (1, 2, 100)
    assert two["classes"].tolist() == ["a"]
    assert two["fpr"] is FPR


def test_genes_are_judged_in_every_cell_and_by_their_mean():
    """Gene 5 (class 0) in three cells, gene 7 (class 1) in one; told by the logits 0 and ±1."""
    labels = np.full(10, IGNORED)
    labels[[5, 7]] = [0, 1]
    cells = TokenDataset(np.array([5, 9, 7, 5, 5]), np.array([0, 3, 4, 5]), labels)
    logits = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]], dtype=np.float32)
    found = judge_genes(cells, logits, np.array([5, 7]), np.array([0, 1]), np.array([0, 0]), ["a", "b"])
    p = np.exp(1) / (1 + np.exp(1))
    np.testing.assert_allclose(found.probability, [[(p + 1) / 3, (2 - p) / 3], [1 - p, p]], rtol=1e-6)
    assert found.n_cells.tolist() == [3, 1]
    assert found.in_cells.confusion.tolist() == [[2, 1], [0, 1]]
    assert found.of_genes.confusion.tolist() == [[1, 0], [0, 1]]
    summaries = found.summaries
    assert (summaries["genes in cells"]["accuracy"], summaries["genes"]["accuracy"]) == (0.75, 1.0)
    assert summaries["genes in cells"]["auc_over_folds"] == pytest.approx(5 / 6)  # two of three before it, one beside
