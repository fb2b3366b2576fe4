"""Settings of trainings, and the published ones."""

from __future__ import annotations

import numpy as np
import pytest
from fine_tuned import make_cells
from toys import make_model

import scgeneformer as gf
from scgeneformer._errors import DataError
from scgeneformer._training.recipe import OF_CLASSIFIERS, OF_PRETRAINING, Recipe, find_recipe, named_recipes
from scgeneformer._training.run import Run
from scgeneformer._training.task import CellTask

PUBLISHED = {
    "cardiomyopathy": {
        "pooling": "first",
        "head": "mlp",
        "frozen_layers": 2,
        "max_tokens": 2048,
        "epochs": 0.9,
        "batch_size": 12,
        "learning_rate": 0.000804,
        "layer_decay": 1.0,
        "schedule": "polynomial",
        "warmup": 1812,
        "weight_decay": 0.258828,
        "max_grad_norm": 1.0,
    },
    "dosage_sensitivity": {
        "head": "linear",
        "frozen_layers": 4,
        "max_tokens": 2048,
        "epochs": 1,
        "batch_size": 12,
        "learning_rate": 5e-5,
        "layer_decay": 1.0,
        "schedule": "linear",
        "warmup": 500,
        "weight_decay": 0.001,
        "max_grad_norm": 1.0,
    },
    "mindspore": {
        "pooling": "first",
        "head": "mlp",
        "frozen_layers": 4,
        "max_tokens": 2048,
        "epochs": 1,
        "batch_size": 12,
        "learning_rate": 5e-5,
        "layer_decay": 0.65,
        "schedule": "linear",
        "weight_decay": 0.001,
    },
    "geneformer": {
        "init": "random",
        "epochs": 3,
        "batch_size": 12,
        "learning_rate": 1e-3,
        "schedule": "linear",
        "weight_decay": 0.001,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_have_the_settings_that_were_published(name):
    found = find_recipe(name, {})
    assert {setting: getattr(found, setting) for setting in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", named_recipes())
def test_every_recipe_trains(name, tmp_path):
    import torch

    model = make_model(n_blocks=6)
    recipe = find_recipe(name, {})
    run = Run(model.bert, recipe, CellTask(model.vocabulary, recipe.pooling, [3]), 42, 0, torch.device("cpu"), None, {})
    cells = make_cells(model.vocabulary, 24)
    network, history = run.train(tmp_path, cells, cells)
    assert history[-1]["step"] == round(2 * recipe.epochs + 0.4)
    assert np.isfinite(run.task.predict(network, cells)[0]).all()


def test_recipes_are_listed_with_their_source():
    table = gf.models.recipes()
    assert list(table.index) == ["default", *PUBLISHED]
    assert all(table["source"].str.len() > 20)
    assert table["source"][["cardiomyopathy", "dosage_sensitivity"]].str.contains("Nature 618:616-624").all()
    assert "learning_rate=0.000804" in table.loc["cardiomyopathy", "settings"]
    assert table.loc["default", "settings"] == ""


def test_default_is_the_default():
    assert find_recipe("default", {"source": ""}) == Recipe()


def test_the_source_of_a_changed_recipe_names_the_changes():
    base = find_recipe("mindspore", {})
    assert find_recipe("mindspore", {"frozen_layers": 4}) == base, "that is no change"
    found = find_recipe("mindspore", {"epochs": 3, "lora": 8, "frozen_layers": 4})
    assert (found.epochs, found.lora, found.layer_decay) == (3, 8, 0.65)
    assert found.source == f"{base.source}; changed: epochs, lora"
    assert find_recipe(found, {"lora": 4, "head": "linear"}).source == f"{base.source}; changed: epochs, lora, head"
    assert find_recipe(Recipe(), {"epochs": 2}) == Recipe(epochs=2)


def test_numbers_of_numpy_become_plain_ones():
    recipe = Recipe(batch_size=np.int64(4), learning_rate=np.float32(0.5), positions=np.bool_(False))
    assert [type(value) for value in (recipe.batch_size, recipe.learning_rate, recipe.positions)] == [int, float, bool]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "max"}, "pooling='max' does not exist; choose one of 'mean', 'cls', 'first'"),
        ({"head": "deep"}, "head='deep' does not exist"),
        ({"schedule": "step"}, "schedule='step' does not exist"),
        ({"class_weights": "sqrt"}, "class_weights='sqrt' does not exist"),
        ({"init": "zeros"}, "init='zeros' does not exist"),
        ({"learning_rate": 0}, "learning_rate=0 must be a number from 1e-12 to 10"),
        ({"learning_rate": "1e-5"}, "learning_rate='1e-5' must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a number"),
        ({"learning_rate": None}, "learning_rate=None must be a number"),
        ({"batch_size": 2.5}, "batch_size=2.5 must be a whole number"),
        ({"batch_size": True}, "batch_size=True must be a whole number"),
        ({"frozen_layers": -1}, "frozen_layers=-1 must be a whole number from 0"),
        ({"layer_decay": 1.1}, "layer_decay=1.1 must be a number from 1e-06 to 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be a number from 0 to 0.99"),
        ({"max_tokens": 1}, "max_tokens=1 must be a whole number from 2"),
        ({"lora": -1}, "lora=-1 must be a whole number from 0"),
        ({"lora_alpha": 4.0}, "lora_alpha scales adapters, and there are none"),
        ({"lora": 4, "init": "random"}, "lora trains adapters of pretrained weights"),
        ({"config": {"hidden_size": 8}}, "config changes the shape of the model, which needs random weights"),
        ({"config": "small", "init": "random"}, "config='small' must be a dictionary"),
        ({"positions": "no"}, "positions='no' must be True or False"),
        ({"add_cls": 1}, "add_cls=1 must be True or False"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        Recipe(**settings)


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("mindsphere", {}, "recipe='mindsphere' does not exist; choose one of 'default', 'cardiomyopathy'"),
        (None, {}, "recipe=None is neither a name nor a Recipe; names are: default, cardiomyopathy"),
        ("default", {"lr": 1}, r"lr= is no parameter .*recipe\. Settings are: .*, learning_rate, "),
        ("default", {"learning_rat": 1}, r"learning_rat= is no parameter .* Did you mean 'learning_rate'\?"),
        ("default", {"xyz": 1}, "xyz= is no parameter and no setting of a recipe. Settings are: accumulation,"),
        ("default", {"epochs": -1}, "epochs=-1 must be a number"),
    ],
)
def test_recipes_that_do_not_exist_are_refused(recipe, changes, message):
    with pytest.raises(DataError, match=message):
        find_recipe(recipe, changes)


@pytest.mark.parametrize(
    ("recipe", "others", "names"),
    [
        ("geneformer", ("init", *OF_PRETRAINING), "'default', 'cardiomyopathy', 'dosage_sensitivity', 'mindspore'"),
        ("mindspore", OF_CLASSIFIERS, "'default', 'geneformer'"),
    ],
)
def test_recipes_of_other_functions_are_refused_and_not_offered(recipe, others, names):
    with pytest.raises(DataError, match=rf"recipe='{recipe}' is for another function; choose one of {names}\.$"):
        find_recipe(recipe, {}, others)
    with pytest.raises(DataError, match=rf"recipe='x' does not exist; choose one of {names}\.$"):
        find_recipe("x", {}, others)
