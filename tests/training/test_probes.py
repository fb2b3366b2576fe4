"""Simple methods on arrays."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from scgeneformer._training.probes import DEFAULT, METHODS, STRENGTHS, Settings, _inner, tell
from scgeneformer._training.scores import score


@pytest.fixture(scope="module")
def toy():
    """Three classes, told apart by the first two of 20 features."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 240)
    x = rng.normal(size=(240, 20))
    x[:, :2] += 2 * np.array([[0, 0], [1, 0], [0, 1]])[codes]
    part = np.repeat([0, 1, 2], (160, 40, 40))
    return 5 * x + 3, codes, part == 0, part == 1, part == 2


def test_logistic_regression_on_standardized_features(toy):
    x, codes, train, _, test = toy
    found, strength = tell("logistic", x, codes, train, test, settings=Settings(C=0.1))
    scaler = StandardScaler().fit(x[train])
    naive = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(x[train]), codes[train])
    np.testing.assert_allclose(found, naive.predict_proba(scaler.transform(x[test])), atol=1e-6)
    assert strength == 0.1


def test_neighbors_vote_on_features_as_they_are(toy):
    x, codes, train, _, test = toy
    found, strength = tell("knn", x, codes, train, test, settings=Settings(n_neighbors=7))
    naive = KNeighborsClassifier(7).fit(x[train], codes[train])
    np.testing.assert_allclose(found, naive.predict_proba(x[test]))
    assert strength is None


@pytest.mark.parametrize("method", ["logistic", "logistic_l1"])
def test_c_has_the_smallest_log_loss_on_the_validation_cells(toy, method):
    x, codes, train, validation, test = toy

    def loss(c):
        told = tell(method, x, codes, train, validation, settings=Settings(C=c))[0]
        return score(codes[validation], told).summary["log_loss"]

    _, strength = tell(method, x, codes, train, test, validation=validation, settings=Settings())
    assert strength == min(STRENGTHS, key=loss)


def test_an_l1_penalty_drops_features(toy):
    x, codes, train, _, test = toy
    noise = x.copy()
    noise[:, 5:] = np.random.default_rng(1).normal(size=(240, 15))
    first, second = (tell("logistic_l1", y, codes, train, test, settings=Settings(C=0.02))[0] for y in (x, noise))
    np.testing.assert_allclose(first, second, atol=1e-3)
    dense = [tell("logistic", y, codes, train, test, settings=Settings(C=0.02))[0] for y in (x, noise)]
    assert np.abs(dense[0] - dense[1]).max() > 0.02


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_does_not_train_has_no_probability(toy, method):
    x, codes, train, _, test = toy
    codes = np.where(train & (codes == 1), 0, codes)  # class 1 does not train
    found, _ = tell(method, x, codes, train, test, settings=Settings())
    assert found.shape == (40, 3)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    again, _ = tell(method, x, codes, train, test, settings=Settings())
    np.testing.assert_array_equal(found, again)


def test_a_constant_feature_does_no_harm(toy):
    x, codes, train, _, test = toy
    x = np.concatenate([x, np.ones((240, 1))], axis=1)
    assert np.isfinite(tell("logistic", x, codes, train, test, settings=Settings(C=1))[0]).all()


def test_inner_folds_keep_units_whole_and_touch_no_other_cell(toy):
    _, codes, train, _, _ = toy
    units = np.arange(240) // 10
    pairs = _inner(codes, train, units, 0)
    assert len(pairs) == 3
    for fitted, held in pairs:
        assert not (fitted & held).any()
        assert ((fitted | held) == train).all()
        assert not set(units[fitted]) & set(units[held])
    assert len(_inner(codes, train, np.zeros(240, dtype=int), 0)) == 3  # one unit cannot be divided


def test_with_too_few_cells_for_folds_c_is_not_chosen():
    x, codes = np.array([[0.0], [1.0], [2.0], [0.1]]), np.array([0, 1, 2, 0])
    train = np.array([True, True, True, False])
    told, strength = tell("logistic", x, codes, train, ~train, settings=Settings())
    assert strength == DEFAULT
    assert told.argmax() == 0
