"""How well probabilities fit true classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics

from scgeneformer._training.scores import score

CLASSES = ["a", "b", "c"]


def toy(n: int = 300, n_classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[truth]
    return truth, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_as_scikit_learn_has_it(n_classes):
    truth, probability = toy(n_classes=n_classes)
    told, found = probability.argmax(axis=1), score(truth, probability)
    area = probability[:, 1] if n_classes == 2 else probability
    assert found.summary == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(truth, told),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, told),
            "macro_f1": metrics.f1_score(truth, told, average="macro"),
            "auc": metrics.roc_auc_score(truth, area, multi_class="ovr"),
            "log_loss": metrics.log_loss(truth, probability),
            "calibration_error": found.summary["calibration_error"],
            "n_test": 300,
        }
    )
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(truth, told))
    each = np.array(metrics.precision_recall_fscore_support(truth, told)).T
    np.testing.assert_allclose(found.per_class[["precision", "recall", "f1", "n"]], each)


def test_calibration_by_hand():
    truth = np.array([0, 0, 1, 1, 0])
    probability = np.array([[0.95, 0.05], [0.85, 0.15], [0.88, 0.12], [0.35, 0.65], [0.97, 0.03]])
    found = score(truth, probability)
    bins = found.reliability
    assert bins["n"].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 2, 2]
    np.testing.assert_allclose(bins["confidence"][[6, 8, 9]], [0.65, 0.865, 0.96])
    np.testing.assert_allclose(bins["accuracy"][[6, 8, 9]], [1, 0.5, 1])
    assert bins["accuracy"].isna().sum() == 7
    assert found.summary["calibration_error"] == pytest.approx((0.35 + 2 * 0.365 + 2 * 0.04) / 5)


def test_cells_without_label_or_probability_do_not_count():
    truth, probability = toy()
    with_more = np.append(truth, [-1, 2]), np.concatenate([probability, [[1, 0, 0], [np.nan] * 3]])
    assert score(*with_more).to_dict() == score(truth, probability).to_dict()


def test_classes_that_do_not_occur_count_in_no_mean():
    """Class 2 neither occurs nor is told; class 1 occurs and is never told."""
    truth = np.array([0, 0, 1, 1])
    probability = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    found = score(truth, probability, CLASSES)
    assert found.per_class.index.tolist() == CLASSES
    assert found.per_class.loc["b", ["precision", "recall", "f1", "auc", "n"]].tolist() == [0, 0, 0, 1, 2]
    assert found.per_class.loc["c"].isna().tolist() == [True, True, True, True, False]
    assert found.summary["macro_f1"] == pytest.approx(metrics.f1_score(truth, [0, 0, 0, 0], average="macro"))
    assert found.summary["balanced_accuracy"] == 0.5
    assert found.summary["auc"] == 1


def test_a_single_class_has_no_auc_and_no_cell_has_no_loss():
    one = score(np.zeros(3, dtype=int), np.full((3, 2), 0.5))
    assert np.isnan(one.summary["auc"])
    assert one.summary["accuracy"] == 1
    none = score(np.full(3, -1), np.full((3, 2), 0.5))
    assert none.summary["n_test"] == 0
    assert np.isnan(none.summary["log_loss"])


def test_float32_changes_nothing_and_wrong_certainty_has_a_finite_loss():
    truth, probability = toy()
    single = score(truth, probability.astype(np.float32)).summary
    assert single == pytest.approx(score(truth, probability).summary, rel=1e-5)
    wrong = score(np.array([1]), np.array([[1.0, 0.0]], dtype=np.float32)).summary["log_loss"]
    assert wrong == pytest.approx(metrics.log_loss([1], np.array([[1.0, 0.0]]), labels=[0, 1]))


def test_the_dictionary_is_plain_json():
    truth, probability = toy(n=12)
    found = score(truth, probability, CLASSES)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["n_test"] == 12
    assert told["confusion"] == found.confusion.tolist()
    assert told["per_class"]["b"]["f1"] == found.per_class.loc["b", "f1"]
    assert told["per_class"]["b"]["n"] == found.per_class.loc["b", "n"]
    assert {row["n"] for row in told["reliability"]} == set(found.reliability["n"])
    assert told["reliability"][0]["accuracy"] is None
