"""Settings that a search tries."""

from __future__ import annotations

import pytest

from scgeneformer._errors import DataError
from scgeneformer._training.recipe import Recipe
from scgeneformer._training.search_space import DEFAULT, Choice, Range, draw, read_space

optuna = pytest.importorskip("optuna")


def test_lists_are_choices_and_pairs_are_ranges():
    space = {
        "learning_rate": (1e-5, 1e-3, "log"),
        "warmup": (0.0, 0.3),
        "frozen_layers": (0, 4),
        "lora": [0, 8],
        "class_weights": [None, "balanced"],
    }
    assert read_space(space, Recipe(), lambda recipe: None) == {
        "learning_rate": Range(1e-5, 1e-3, log=True, whole=False),
        "warmup": Range(0.0, 0.3, log=False, whole=False),
        "frozen_layers": Range(0, 4, log=False, whole=True),
        "lora": Choice((0, 8)),
        "class_weights": Choice((None, "balanced")),
    }


def test_a_trial_draws_within_the_space_and_twice_the_same():
    base = Recipe(epochs=3)
    space = read_space({**DEFAULT, "frozen_layers": (1, 3), "head": ["linear", "mlp"]}, base, lambda recipe: None)
    study, seen = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), []
    for _ in range(30):
        trial = study.ask()
        seen.append(draw(trial, space, base))
        assert draw(trial, space, base) == seen[-1]
    assert {recipe.frozen_layers for recipe in seen} == {1, 2, 3}
    assert {recipe.head for recipe in seen} == {"linear", "mlp"}
    assert {recipe.schedule for recipe in seen} == {"linear", "cosine", "polynomial"}
    rates = [recipe.learning_rate for recipe in seen]
    assert min(rates) >= 1e-6
    assert max(rates) <= 1e-3
    assert sum(rate < 3.2e-5 for rate in rates) > 8, "half of them, on a logarithmic scale"
    assert {recipe.epochs for recipe in seen} == {3}


def test_what_the_model_must_be_able_to_do_is_checked_first():
    checked = []
    read_space({"frozen_layers": [0, 7], "learning_rate": [1e-3, 1e-4]}, Recipe(), checked.append)
    assert checked == [Recipe(), Recipe(frozen_layers=7)]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"space=\{\} must be a dictionary of settings, such as"),
        (["learning_rate"], "must be a dictionary of settings"),
        (
            {"learning_rat": [1]},
            "space: 'learning_rat' is no setting of a recipe; these can be searched: acc",
        ),
        ({"max_tokens": [64]}, "space: max_tokens cannot be searched: it changes the tokens"),
        ({"add_cls": [True]}, "space: add_cls cannot be searched: it changes the tokens"),
        ({"patience": [1]}, "space: patience cannot be searched: every trial runs to its end"),
        ({"source": ["a"]}, "space: source cannot be searched: it is no setting"),
        ({"learning_rate": 1e-3}, r"space\['learning_rate'\]=0.001 must be a list of choices, or a tuple"),
        ({"learning_rate": []}, r"space\['learning_rate'\]=\[\] must be a list of choices"),
        ({"config": [{}]}, "space: config cannot be searched"),
        ({"head": [["mlp"]]}, r"must be a list of choices"),
        ({"learning_rate": (1e-3, 1e-5)}, r"=\(0.001, 1e-05\) is no range: \(lowest, highest\)"),
        ({"learning_rate": (1e-5,)}, "is no range"),
        ({"learning_rate": (1e-5, 1e-3, "linear")}, "is no range"),
        ({"learning_rate": (1e-5, 1e-3, "log", 3)}, "is no range"),
        ({"learning_rate": ("a", "b")}, "is no range"),
        ({"head": ("linear", "mlp")}, r"is no range: .* Write choices as a list"),
        ({"weight_decay": (0.0, 0.1, "log")}, "a logarithmic scale begins above 0"),
        ({"learning_rate": (1e-5, 100.0)}, "learning_rate=100.0 must be a number from 1e-12 to 10"),
        ({"frozen_layers": (0.5, 3)}, "frozen_layers=0.5 must be a whole number"),
        ({"head": ["linear", "deep"]}, "head='deep' does not exist"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(space, message):
    with pytest.raises(DataError, match=message):
        read_space(space, Recipe(), lambda recipe: None)
