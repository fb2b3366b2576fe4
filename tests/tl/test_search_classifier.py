"""Search for settings of fine-tuning."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from toys import clear_cells, make_adata

import scgeneformer as gf
from scgeneformer import _optional
from scgeneformer._errors import DataError, MissingExtraError

pytest.importorskip("optuna")
SPACE = {"learning_rate": (1e-3, 1e-1, "log"), "frozen_layers": [0, 2]}


@pytest.fixture
def cells():
    """Cells whose label can be learned: the first gene leads in one class alone."""
    adata = make_adata(60)
    adata.obs["kind"] = np.resize(["a", "b"], 60)
    dense = adata.X.toarray()
    dense[::2, 0], dense[1::2, 0] = 50, 0
    adata.X = type(adata.X)(dense)
    return adata


def test_the_recipe_is_that_of_the_best_trial(cells, toy):
    found = gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=3, batch_size=8, patience=2)
    assert list(found.trials) == ["state", "validation_loss", "learning_rate", "frozen_layers", "seconds"]
    assert list(found.trials.index) == [1, 2, 3]
    best = found.trials.loc[found.trials["validation_loss"].idxmin()]
    assert (found.recipe.learning_rate, found.recipe.frozen_layers) == (best["learning_rate"], best["frozen_layers"])
    assert (found.recipe.batch_size, found.recipe.patience) == (8, 2)
    assert found.trials["learning_rate"].between(1e-3, 1e-1).all()
    assert found.trials["learning_rate"].nunique() == 3
    settings = f"learning_rate={best['learning_rate']:.3g}, frozen_layers={best['frozen_layers']:.0f}"
    assert (found.metric, found.best) == ("loss", best["validation_loss"])
    assert repr(found) == f"Search of 3 trials: loss {best['validation_loss']:.3f} with {settings}"
    assert set(cells.obs["geneformer_split"]) == {"train", "validation", "test"}


def test_a_training_with_what_was_found_does_what_the_trial_did(cells, toy, tmp_path):
    """Same cells, same weights, same dropout: the same loss on the validation cells; with other settings another."""
    found = gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=2, epochs=2, dropout=0.1)
    for recipe, same in ((found.recipe, True), ("default", False)):
        trained = gf.tl.train_classifier(
            cells, "kind", toy, split="geneformer_split", recipe=recipe, out=tmp_path / str(same)
        )
        loss = [entry["eval_loss"] for entry in trained.metrics["history"] if "eval_loss" in entry][-1]
        assert (abs(loss - float(found.trials["validation_loss"].min())) < 1e-6) is same


def test_test_cells_have_no_part_in_it(cells, toy):
    cells.obs["part"] = np.repeat(["train", "validation", "test"], [40, 10, 10])
    run = {"space": SPACE, "n_trials": 2, "split": "part"}
    found = gf.tl.search_classifier(cells, "kind", toy, **run)
    assert "geneformer_split" not in cells.obs
    fewer = cells[:50].copy()
    again = gf.tl.search_classifier(fewer, "kind", toy, **run)
    same = ["validation_loss", "learning_rate", "frozen_layers"]
    np.testing.assert_array_equal(found.trials[same], again.trials[same])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_metrics_that_are_better_when_larger(cells, toy, metric):
    space, how = {"learning_rate": [1e-12, 0.03]}, {"epochs": 4, "batch_size": 4, "pooling": "first", "head": "mlp"}
    found = gf.tl.search_classifier(cells, "kind", toy, space=space, n_trials=2, metric=metric, **how)
    by_rate = found.trials.set_index("learning_rate")[f"validation_{metric}"]
    assert by_rate[0.03] == 1 > by_rate[1e-12] > 0
    assert found.recipe.learning_rate == 0.03


def test_settings_of_every_sort_reach_the_trial(cells, toy):
    """Of the model, of the optimizer, of Trainer, and of both."""
    space = {
        "num_layers": [1, 3],
        "head": ["linear", "mlp"],
        "pooling": ["mean", "first"],
        "layer_decay": (0.5, 1.0),
        "lora": [0, 2],
        "batch_size": (4, 16),
        "accumulation": [1, 2],
        "epochs": [0.5, 2],
        "warmup": [0.2, 2],
        "schedule": ["linear", "constant"],
        "class_weights": [None, "balanced"],
        "dropout": (0.0, 0.2),
    }
    found = gf.tl.search_classifier(cells, "kind", toy, space=space, n_trials=3)
    assert set(space) < set(found.trials)
    for name in space:
        assert getattr(found.recipe, name) in set(found.trials[name]) | {None}


def test_a_search_goes_on_from_its_file(cells, toy, tmp_path, log):
    file = tmp_path / "new" / "trials.log"
    one = gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=2, out=file)
    more = gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=3, out=file)
    assert "2 trials are there already" in log()
    np.testing.assert_array_equal(more.trials.iloc[:2], one.trials)
    assert more.trials["learning_rate"].nunique() == 3
    again = gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=3, out=file)
    np.testing.assert_array_equal(again.trials, more.trials)
    other = gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=1, out=file, epochs=2)
    assert len(other.trials) == 1, "another search in the same file"


def test_settings_that_do_not_fit_together_are_given_up(cells, toy, log):
    space = {"num_layers": [1], "frozen_layers": [2], "learning_rate": [1e-3]}
    with pytest.raises(DataError, match="All 2 trials were given up; the log says why"):
        gf.tl.search_classifier(cells, "kind", toy, space=space, n_trials=2)
    assert "trial 1 is given up: frozen_layers=2 is more than the 1 blocks" in log()
    assert "geneformer_split" not in cells.obs


def test_settings_of_optuna_and_random_numbers_stay_as_they_were(cells, toy):
    import optuna
    import torch

    before, state = optuna.logging.get_verbosity(), torch.get_rng_state()
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002
    gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=1)
    assert optuna.logging.get_verbosity() == before
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"metric": "auc"}, "metric='auc' does not exist; choose one of 'loss', 'accuracy', 'macro_f1'"),
        ({"n_trials": 0}, "n_trials=0 must be a whole number of at least 1"),
        ({"fractions": (0.8, 0, 0.2)}, "A search judges by the validation cells, and there are none"),
        ({"space": {"frozen_layers": (0, 9)}}, "frozen_layers=9 is more than the 3 blocks"),
        ({"space": {"num_layers": [4]}}, "num_layers=4 must be from 1 to 3"),
        ({"space": {"pooling": ["mean", "cls"]}}, "pooling='cls' needs a model with a <cls> token"),
        ({"frozen_layers": 4}, "frozen_layers=4 is more than the 3 blocks"),
        ({"learning_rat": 4}, "learning_rat= is no parameter and no setting"),
        ({"arguments": {"bogus": 1}}, "'bogus' is no argument of transformers.TrainingArguments"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(unchanged, toy, parameters, message):
    with pytest.raises(DataError, match=message):
        gf.tl.search_classifier(unchanged, "donor", toy, **{"space": SPACE, "n_trials": 1, **parameters})


def test_a_file_that_holds_something_else_is_refused_and_left_alone(unchanged, toy, tmp_path):
    (tmp_path / "notes.txt").write_text("not trials")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="is no file of trials"):
            gf.tl.search_classifier(
                unchanged, "donor", toy, space=SPACE, n_trials=1, out=path, fractions=(0.6, 0.2, 0.2)
            )
    assert (tmp_path / "notes.txt").read_text() == "not trials"


def test_of_a_file_that_holds_something_else_one_byte_is_read(cells, toy, tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 42)  # of which the disk holds nothing, and no memory could
    with pytest.raises(DataError, match="is no file of trials"):
        gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=1, out=tmp_path / "large")


def test_arguments_are_refused_before_the_file_is_made(cells, toy, tmp_path):
    with pytest.raises(DataError, match="'bogus' is no argument"):
        gf.tl.search_classifier(cells, "kind", toy, n_trials=1, out=tmp_path / "new" / "x", arguments={"bogus": 1})
    assert not (tmp_path / "new").exists()


def test_trials_of_other_cells_or_labels_are_others(cells, toy, tmp_path):
    cells.obs["part"] = np.resize(["train"] * 3 + ["validation"], 60)
    found = {"space": SPACE, "split": "part", "out": tmp_path / "trials.log"}
    gf.tl.search_classifier(cells, "kind", toy, n_trials=2, **found)
    counts, labels = cells.copy(), cells.copy()
    counts.X = cells.X[::-1]
    labels.obs["kind"] = cells.obs["kind"].to_numpy()[::-1]
    for other in (counts, labels):
        assert len(gf.tl.search_classifier(other, "kind", toy, n_trials=1, **found).trials) == 1


def test_the_log_tells_of_the_best_trial_that_came_to_its_end(cells, toy, monkeypatch, log):
    from scgeneformer._training import search as module

    trials = pd.DataFrame({"state": ["pruned", "complete", "complete"], "validation_loss": [0.1, 0.75, 0.5]})
    monkeypatch.setattr(module, "search", lambda *_, **__: module.Search(gf.models.Recipe(), trials))
    gf.tl.search_classifier(cells, "kind", toy)
    assert "finished: validation loss 0.5" in log()


def test_classes_of_empty_cells_alone_are_refused(cells, toy):
    clear_cells(cells, *range(0, 60, 2))
    with pytest.raises(DataError, match="No cell of 'a' would be on the training side once cells without a count"):
        gf.tl.search_classifier(cells, "kind", toy, space=SPACE, n_trials=1)
    assert "geneformer_split" not in cells.obs


def test_without_optuna_the_extra_is_named(unchanged, toy, monkeypatch):
    found = _optional.find_spec
    monkeypatch.setattr(_optional, "find_spec", lambda name: None if name == "optuna" else found(name))
    with pytest.raises(MissingExtraError, match=r'needs the library optuna.*pip install "scgeneformer\[search\]"'):
        gf.tl.search_classifier(unchanged, "donor", toy)
