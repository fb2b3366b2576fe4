"""Keys that would be those of other results are refused, before anything is run."""

import inspect
import json
import re

import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from fine_tuned import make_run, save
from toys import make_adata

import scgeneformer as gf
from scgeneformer import DataError
from scgeneformer._adata import keys
from scgeneformer._adata.perturbation.goal import Goal


@pytest.mark.parametrize(
    ("states", "slugs"),
    [
        (["CD4", "CD4_2", "CD4+"], ["CD4", "CD4_2", "CD4_3"]),
        (["CD4+", "CD4", "CD4_1"], ["CD4", "CD4_2", "CD4_1"]),
        (["a b", "a/b", "a_b_2", "a:b"], ["a_b", "a_b_1", "a_b_2", "a_b_3"]),
        (["+", "/", "state"], ["state", "state_1", "state_2"]),
    ],
)
def test_every_goal_state_has_a_key_of_its_own(states, slugs):
    assert Goal("column", states, np.zeros(0)).slugs == slugs


def test_no_goal_state_holds_the_shifts_of_another(adata, toy):
    adata.obs["state"] = np.resize(["CD4", "CD4_2", "CD4+"], 12)
    adata.obs["plain"] = np.resize(["one", "two", "three"], 12)
    for column, states, key in (("state", ["CD4", "CD4_2", "CD4+"], "a"), ("plain", ["one", "two", "three"], "b")):
        goal = {"column": column, "start": states[0], "goal": states[1], "alternatives": states[2:]}
        gf.tl.perturb(adata, model=toy, goal=goal, key_added=key)
    for one, other in zip(adata.uns["a"]["state_keys"], adata.uns["b"]["state_keys"], strict=True):
        assert_equal(adata.layers[one], adata.layers[other])


@pytest.mark.parametrize(
    ("key", "columns", "made"),
    [
        (keys.GENES, ["tokens"], "geneformer_tokens"),
        (keys.GENES, ["n", "tokens"], "geneformer_n_tokens"),
        (keys.GENES, ["n/genes"], "geneformer_n_genes"),
        (keys.GENES, ["delete"], "geneformer_delete"),
        (keys.GENES, ["genes"], "geneformer_genes"),
        (keys.EMBEDDING, ["pca"], "X_geneformer_pca"),
        (keys.EMBEDDING, ["L2"], "X_geneformer_L2"),
        ("mine", ["effects", "sd"], "mine_effects_sd"),
    ],
)
def test_groups_have_no_key_of_other_results(key, columns, made):
    named = ", ".join(map(repr, columns))
    told = f"Results for groups of {named} would have the key '{made}', which is that of other results. Rename the col"
    with pytest.raises(DataError, match=told):
        keys.group_key(key, columns)


def test_groups_may_have_names_that_make_other_keys():
    assert keys.group_key(keys.EMBEDDING, ["split"]) == "X_geneformer_split"
    assert keys.group_key(keys.GENES, ["age_groups", "a/b"]) == "geneformer_age_groups_a_b"


CALLS = {
    "embed_cells": (gf.tl.embed_cells, "pca"),
    "embed_genes": (gf.tl.embed_genes, "split"),
    "attention": (gf.tl.attention, "L1"),
    "perturb": (gf.tl.perturb, "effects"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_column_whose_key_is_taken_is_refused_before_anything_is_run(toy, name, monkeypatch):
    function, column = CALLS[name]
    adata = make_adata()
    adata.obs[column] = "x"
    monkeypatch.setattr("scgeneformer._engine.forward.hidden_states", None)
    with pytest.raises(DataError, match=f"Results for groups of '{column}' would have the key"):
        function(adata, model=toy, groupby=column)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["a/b", "a_b"], r"labels 'a/b' and 'a_b' would have the same key, 'geneformer_a_b' \('/' is written as '_'\)"),
        (["x", "x_confidence"], "labels 'x' and 'x_confidence' would have the same key, 'geneformer_x_confidence'"),
        (["x_truth", "x"], "labels 'x_truth' and 'x' would have the same key, 'geneformer_x_truth'"),
        (["split"], "What is told of 'split' would have the key 'geneformer_split', which is that of other results"),
        (["x", "n/tokens"], "'n/tokens' would have the key 'geneformer_n_tokens', which is that of other results"),
    ],
)
def test_labels_have_no_key_of_each_other_or_of_other_results(adata, toy, tmp_path, labels, told):
    for label in labels:
        adata.obs[label] = np.resize(["u", "v"], 12)
    with pytest.raises(DataError, match=f"{told}.*Rename .* before a classifier is trained"):
        gf.tl.train_classifier(adata, labels, toy, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_a_label_whose_key_is_taken_needs_another(adata, toy, tmp_path):
    run = make_run(toy)
    folder = save(run.network(), toy, run.recipe, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["scgeneformer"]["tasks"][0]["label"] = "split"
    (folder / "config.json").write_text(json.dumps(config))
    before = adata.copy()
    with pytest.raises(DataError, match=r"'split' would have the key 'geneformer_split'.*key_added='\.\.\.'"):
        gf.tl.classify(adata, folder)
    assert_equal(adata, before)
    gf.tl.classify(adata, folder, key_added="mine")
    assert "mine" in adata.obs


def test_keys_of_several_labels_begin_with_the_one_that_is_given():
    assert keys.prediction_keys(["a/b", "c"]) == ["geneformer_a_b", "geneformer_c"]
    assert keys.prediction_keys(["a/b", "c"], "mine") == ["mine_a_b", "mine_c"]
    assert keys.prediction_keys(["split"], "mine") == ["mine"]


NAMED = [
    function
    for space in (gf.pp, gf.tl)
    for function in (getattr(space, name) for name in space.__all__)
    if callable(function) and "key_added" in inspect.signature(function).parameters
]


@pytest.mark.parametrize("function", NAMED, ids=lambda function: function.__name__)
def test_keys_that_files_cannot_hold_are_refused_before_all_else(function, unchanged):
    given = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty]
    given = [one.name for one in given if one.kind is not one.VAR_KEYWORD]
    for key in (5, "", "a/b", ["a"]):
        with pytest.raises(DataError, match=re.escape(f"key_added={key!r} must be text, not empty and without '/'")):
            function(unchanged, *["nothing"] * len(given[1:]), key_added=key)
