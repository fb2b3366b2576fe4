"""Fine-tuning from an AnnData to a directory, and that directory as a model like any other."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata.tests.helpers import assert_equal
from fine_tuned import make_run
from toys import Stop, clear_cells, make_adata, make_model

import scgeneformer as gf
from scgeneformer._errors import DataError, MissingKeyError, ModelError

CLASSES = ["T cell", "CD4+/CD25 T Reg", "B"]
LEARNS = {"epochs": 8, "learning_rate": 1e-2, "dropout": 0.0}


@pytest.fixture
def cells():
    """Ninety cells of three types, told by which genes are high, of six donors."""
    adata = make_adata(90)
    counts = adata.X.toarray()
    codes = np.arange(90) % 3
    for code in range(3):
        counts[np.ix_(codes == code, range(code * 6, code * 6 + 6))] += 40
    adata.X = sp.csr_matrix(counts)
    adata.obs["cell_type"] = pd.Categorical([CLASSES[code] for code in codes])
    adata.obs["state"] = np.where(codes == 0, "on", "off")
    adata.obs["donor"] = [f"d{i // 15}" for i in range(90)]
    return adata


def train(adata, model, out, label="cell_type", **more):
    return gf.tl.train_classifier(adata, label, model, out=out, **{**LEARNS, **more})


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def same_weights(one, other):
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# --- what is learned, written, and read again -----------------------------------------------------------------------


@pytest.mark.parametrize(("pooling", "head"), [("mean", "linear"), ("first", "mlp")])
def test_it_learns_and_the_directory_tells_what_the_metrics_say(cells, model, tmp_path, pooling, head):
    sizes = {"train": 60, "validation": 9, "test": 21}
    fractions = tuple(n / 90 for n in sizes.values())
    more = {"pooling": pooling, "head": head, "fractions": fractions, "epochs": 12}
    trained = train(cells, model, tmp_path / "out", **more)
    part = cells.obs["geneformer_split"]
    assert part.value_counts().to_dict() == sizes
    gf.tl.classify(cells, trained)
    told, test = cells.obs["geneformer_cell_type"], part == "test"
    assert told.cat.categories.tolist() == sorted(CLASSES)
    accuracy = (told.astype(str) == cells.obs["cell_type"].astype(str))[test].mean()
    assert accuracy > 0.8
    found = json.loads((trained.folder / "metrics.json").read_text())
    assert found["metrics"]["cell_type"]["test"]["accuracy"] == pytest.approx(accuracy)
    table = cells.uns["geneformer_cell_type_evaluation"]["table"]
    assert table.loc["fine-tuned", "accuracy"] == pytest.approx(accuracy)
    assert table.loc["fine-tuned", ["n_train", "n_test"]].tolist() == [60, 21]
    probability = cells.obsm["geneformer_cell_type_probability"]
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probability.max(axis=1), cells.obs["geneformer_cell_type_confidence"])
    card = (trained.folder / "README.md").read_text()
    assert "| test cells | accuracy |" in card
    assert "| validation cells | number | 9 |" in card
    assert "seed: 0" in card
    assert not {"checkpoints", "training.json"} & {path.name for path in trained.folder.iterdir()}
    first, validation, last = repr(trained).splitlines()
    assert first == f"Trained model in {trained.folder}"
    assert validation.startswith("    cell_type, validation: accuracy ")
    assert last == f"    cell_type, test: accuracy {accuracy:.3f}, macro F1 {table.loc['fine-tuned', 'macro_f1']:.3f}"


def test_labels_that_mean_nothing_are_not_learned(cells, toy, tmp_path):
    """Held-out accuracy of shuffled labels stays near chance: nothing of the answer leaks into training."""
    cells.obs["cell_type"] = np.random.default_rng(0).permutation(cells.obs["cell_type"].to_numpy(str))
    train(cells, toy, tmp_path / "out", fractions=(0.5, 0, 0.5))
    assert cells.uns["geneformer_cell_type_evaluation"]["table"]["accuracy"].item() < 0.6


def test_the_trained_model_is_a_model_like_any_other(cells, model, tmp_path):
    trained = train(cells, model, tmp_path / "out", num_layers=2, epochs=1)
    loaded = gf.models.load(trained)
    assert (loaded.n_blocks, loaded.width) == (2, model.width)
    gf.tl.embed_cells(cells, trained, layer=-1)
    gf.tl.perturb(cells, ["G1"], model=trained, layer=-1)
    assert np.isfinite(cells.obsm["X_geneformer"]).all()
    copy = gf.models.save(trained, tmp_path / "copy")
    one, other = (
        gf.tl.classify(cells, at, copy=True).obsm["geneformer_cell_type_probability"] for at in (copy, trained)
    )
    np.testing.assert_array_equal(one, other)
    record = loaded.vocabulary.record["fine_tuning"]
    assert record["base_model"] == "toy"
    assert record["recipe"]["num_layers"] == 2


def test_a_donor_is_on_one_side(cells, toy, tmp_path):
    train(cells, toy, tmp_path / "out", split_by="donor", fractions=(0.5, 0.2, 0.3), epochs=1)
    sides = cells.obs.groupby("donor", observed=True)["geneformer_split"].nunique()
    assert sides.tolist() == [1] * 6
    assert cells.uns["geneformer_cell_type_evaluation"]["split"]["split_by"].tolist() == ["donor"]


def test_a_given_split_is_used(cells, toy, tmp_path):
    cells.obs["part"] = np.resize(["train"] * 7 + ["valid", "test"], 90)
    train(cells, toy, tmp_path / "out", split="part", epochs=1)
    assert "geneformer_split" not in cells.obs
    assert cells.uns["geneformer_cell_type_evaluation"]["table"]["n_test"].item() == 10


def test_the_order_of_the_rows_and_where_they_are_stored_make_no_difference(cells, toy, tmp_path):
    train(cells, toy, tmp_path / "one", epochs=1)
    order = np.random.default_rng(0).permutation(90)
    train(cells[order].copy(), toy, tmp_path / "two", epochs=1)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    del cells.obs["geneformer_split"], cells.uns["geneformer_cell_type_evaluation"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    train(backed, toy, tmp_path / "three", epochs=1)
    assert same_weights(tmp_path / "one", tmp_path / "three")
    cells.write_zarr(tmp_path / "cells.zarr")
    train(ad.read_zarr(tmp_path / "cells.zarr"), toy, tmp_path / "four", epochs=1)
    assert same_weights(tmp_path / "one", tmp_path / "four")


def test_another_seed_gives_another_model(cells, toy, tmp_path):
    train(cells, toy, tmp_path / "one", epochs=1)
    train(cells, toy, tmp_path / "two", epochs=1, seed=1)
    assert not same_weights(tmp_path / "one", tmp_path / "two")


def test_the_random_state_of_the_caller_stays(cells, toy, tmp_path):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    train(cells, toy, tmp_path / "out", epochs=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002


def test_the_pretrained_model_stays(cells, toy, tmp_path):
    before = {name: tensor.clone() for name, tensor in toy.bert.state_dict().items()}
    train(cells, toy, tmp_path / "out", epochs=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in toy.bert.state_dict().items())


# --- several labels, folds ------------------------------------------------------------------------------------------


def test_several_labels_are_learned_at_once(cells, toy, tmp_path):
    cells.obs.loc[cells.obs_names[:5], "state"] = None
    trained = train(cells, toy, tmp_path / "out", label=["cell_type", "state"], epochs=6, seed=42)
    gf.tl.classify(cells, trained, truth="state")
    assert cells.obsm["geneformer_cell_type_probability"].shape == (90, 3)
    assert cells.obsm["geneformer_state_probability"].shape == (90, 2)
    for label in ("cell_type", "state"):
        np.testing.assert_allclose(cells.obsm[f"geneformer_{label}_probability"].sum(axis=1), 1, atol=1e-5)
        assert cells.uns[f"geneformer_{label}_evaluation"]["table"]["accuracy"].item() > 0.7
    assert cells.uns["geneformer_state_truth"]["table"]["n_test"].item() == 85
    with pytest.raises(DataError, match="the classifier tells 'cell_type', 'state'"):
        gf.tl.classify(cells, trained, truth="donor")


def test_cross_validation_judges_every_cell_once_and_goes_on_where_it_was_stopped(cells, toy, tmp_path, stop_after):
    whole = train(cells, toy, tmp_path / "one", n_folds=3, split_by="donor", epochs=1)
    table = cells.uns["geneformer_cell_type_evaluation"]["table"]
    assert table[["n_train", "n_test"]].iloc[0].tolist() == [90, 90]
    assert cells.obs.groupby("donor", observed=True)["geneformer_fold"].nunique().tolist() == [1] * 6
    stop_after(8)  # in the second fold
    with pytest.raises(Stop):
        train(cells, toy, tmp_path / "two", n_folds=3, split_by="donor", epochs=1)
    assert (tmp_path / "two" / "checkpoints" / "fold_0.npy").is_file()
    again = train(cells, toy, tmp_path / "two", n_folds=3, split_by="donor", epochs=1)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert again.metrics["metrics"] == whole.metrics["metrics"]


# --- stopped and taken up again -------------------------------------------------------------------------------------


def test_a_stopped_training_goes_on_to_the_same_bits(cells, toy, tmp_path, stop_after, log):
    whole = train(cells, toy, tmp_path / "one", epochs=3, dropout=0.2, arguments={"save_steps": 3})
    stop_after(10)
    with pytest.raises(Stop):
        train(cells, toy, tmp_path / "two", epochs=3, dropout=0.2, arguments={"save_steps": 3})
    assert not (tmp_path / "two" / "config.json").exists()
    again = train(cells, toy, tmp_path / "two", epochs=3, dropout=0.2, arguments={"save_steps": 3})
    assert "going on with the training" in log()
    assert same_weights(tmp_path / "one", tmp_path / "two")
    last = [[entry["eval_loss"] for entry in t.metrics["history"] if "eval_loss" in entry] for t in (whole, again)]
    assert last[0] == last[1]


def test_a_checkpoint_that_was_being_written_when_the_process_was_killed_is_passed_over(
    cells, toy, tmp_path, stop_after
):
    train(cells, toy, tmp_path / "one", epochs=3)
    stop_after(14)  # after two epochs of six steps
    with pytest.raises(Stop):
        train(cells, toy, tmp_path / "two", epochs=3, arguments={"save_total_limit": 3})
    (tmp_path / "two" / "checkpoints" / "checkpoint-12" / "trainer_state.json").write_text('{"epo')
    train(cells, toy, tmp_path / "two", epochs=3, arguments={"save_total_limit": 3})
    assert same_weights(tmp_path / "one", tmp_path / "two")


def test_a_stopped_training_is_not_mixed_with_another(cells, toy, tmp_path, stop_after):
    stop_after(3)
    with pytest.raises(Stop):
        train(cells, toy, tmp_path / "out")
    with pytest.raises(DataError, match="holds a training that was cut off and differs in recipe"):
        train(cells, toy, tmp_path / "out", learning_rate=1e-3)
    train(cells, toy, tmp_path / "out", learning_rate=1e-3, epochs=1, overwrite=True)
    assert gf.models.load(tmp_path / "out").n_blocks == 3


def test_early_stopping_keeps_the_best(cells, toy, tmp_path):
    trained = train(cells, toy, tmp_path / "out", epochs=30, learning_rate=3e-2, patience=2, seed=42)  # which overfits
    losses = [entry["eval_loss"] for entry in trained.metrics["history"] if "eval_loss" in entry]
    assert len(losses) < 30
    assert min(losses) == losses[-3]
    best = -np.log(0.5)
    assert trained.metrics["metrics"]["cell_type"]["validation"]["log_loss"] == pytest.approx(min(losses), abs=1e-5)
    assert min(losses) < best


def test_a_stopped_training_is_not_taken_up_with_other_cells_or_labels(cells, toy, tmp_path, stop_after):
    cells.obs["part"] = np.resize(["train"] * 7 + ["validation", "test"], 90)
    stop_after(3)
    with pytest.raises(Stop):
        train(cells, toy, tmp_path / "out", split="part")
    trains, rng = np.flatnonzero(cells.obs["part"] == "train"), np.random.default_rng(0)
    counts, labels = cells.copy(), cells.copy()
    counts.X = cells.X[rng.permutation(90)]
    labels.obs["cell_type"] = cells.obs["cell_type"].astype(str)
    labels.obs.iloc[trains, labels.obs.columns.get_loc("cell_type")] = (
        labels.obs["cell_type"].iloc[rng.permutation(trains)].to_numpy()
    )
    for other in (counts, labels):
        with pytest.raises(DataError, match=r"holds a training that was cut off and differs in cells\. Repeat"):
            train(other, toy, tmp_path / "out", split="part")


def test_a_fold_whose_results_were_being_written_is_done_again(cells, toy, tmp_path, monkeypatch):
    def half(path, _):
        path.write_bytes(b"\x93NUMPY")
        raise Stop

    more = {"n_folds": 2, "epochs": 1}
    whole = train(cells, toy, tmp_path / "one", **more)
    with monkeypatch.context() as patched:
        patched.setattr(np, "save", half)
        with pytest.raises(Stop):
            train(cells, toy, tmp_path / "two", **more)
    assert train(cells, toy, tmp_path / "two", **more).metrics["metrics"] == whole.metrics["metrics"]


@pytest.fixture
def given_losses(monkeypatch):
    """Function that says what the validation losses are, and in which validation a training is stopped."""
    from scgeneformer._training.trainer import PackedTrainer

    real = PackedTrainer.evaluate

    def give(losses, stop_in=None):
        def evaluate(self, *args, **more):
            n_before = sum("eval_loss" in entry for entry in self.state.log_history)
            if n_before + 1 == stop_in:
                raise Stop
            self.measure = lambda *_: {"loss": losses[n_before], "accuracy": 0.0}
            return real(self, *args, **more)

        monkeypatch.setattr(PackedTrainer, "evaluate", evaluate)

    return give


def losses_of(trained):
    return [entry["eval_loss"] for entry in trained.metrics["history"] if "eval_loss" in entry]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}],
    ids=["after epochs", "within epochs"],
)
def test_a_stopped_training_stops_early_where_the_whole_one_does(
    cells, toy, tmp_path, given_losses, monkeypatch, arguments
):
    def stop(*_):
        raise Stop

    losses, more = [1.0, 0.9, 0.95, 0.96, 0.5, 0.4], {"epochs": 6, "patience": 2, "arguments": arguments}
    given_losses(losses)
    assert losses_of(train(cells, toy, tmp_path / "one", **more)) == losses[:4]
    given_losses(losses, stop_in=4)
    with pytest.raises(Stop):
        train(cells, toy, tmp_path / "two", **more)
    given_losses(losses)
    assert losses_of(train(cells, toy, tmp_path / "two", **more)) == losses[:4]
    assert same_weights(tmp_path / "one", tmp_path / "two")
    more["arguments"] = {**arguments, "save_total_limit": 3}  # the last checkpoint is there, too, not the best alone
    with monkeypatch.context() as patched:
        patched.setattr("scgeneformer.tl._train_classifier._judge", stop)
        with pytest.raises(Stop):
            train(cells, toy, tmp_path / "three", **more)
    assert losses_of(train(cells, toy, tmp_path / "three", **more)) == losses[:4]
    assert same_weights(tmp_path / "one", tmp_path / "three")


@pytest.mark.parametrize(
    ("losses", "over"),
    [
        ([], False),
        ([1.0, 2.0], False),
        ([1.0, 2.0, 3.0], True),
        ([1.0, 1.0, 1.0], True),  # as good is not better
        ([1.0, 2.0, 0.9], False),
        ([1.0, 0.9, 0.95, 0.9], True),
    ],
)
def test_when_early_stopping_stops_by_hand(losses, over):
    from scgeneformer._training.trainer import is_over

    history = [entry for loss in losses for entry in ({"loss": 0.0}, {"eval_loss": loss, "eval_accuracy": -loss})]
    by_loss = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False)
    by_accuracy = SimpleNamespace(metric_for_best_model="accuracy", greater_is_better=True)
    assert is_over(history, by_loss, 2) is is_over(history, by_accuracy, 2) is over


@pytest.mark.parametrize(("metric", "larger"), [(None, False), ("eval_loss", False), ("accuracy", True)])
def test_the_metric_of_the_best_model_says_which_is_better(toy, tmp_path, metric, larger):
    more = {} if metric is None else {"metric_for_best_model": metric}
    arguments = make_run(toy, patience=3, arguments=more).training_arguments(tmp_path, validates=True)
    assert arguments.greater_is_better is larger


# --- bad input ------------------------------------------------------------------------------------------------------


def column(adata, values):
    adata.obs["label"] = values
    return adata


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (["a"] * 11 + ["b"], r"fewer than 2 cells: 'b' \(1\)"),
        ([None] * 12, "All labels in adata.obs\\['label'\\] are missing"),
        (["a"] * 12, "has one class only, 'a'"),
        (np.linspace(0, 1, 12), "is no label"),
    ],
    ids=["one cell", "all missing", "one class", "numbers"],
)
def test_labels_that_cannot_be_learned_are_refused_and_nothing_is_written(adata, toy, tmp_path, values, error):
    column(adata, values)
    before = adata.copy()
    with pytest.raises(DataError, match=error):
        gf.tl.train_classifier(adata, "label", toy, out=tmp_path / "out")
    assert_equal(adata, before)
    assert not (tmp_path / "out").exists()


def test_whole_numbers_and_truth_values_are_labels(cells, toy, tmp_path):
    cells.obs["is_b"] = cells.obs["cell_type"] == "B"
    trained = train(cells, toy, tmp_path / "out", label="is_b", epochs=1)
    gf.tl.classify(cells, trained, truth="is_b")
    assert cells.obs["geneformer_is_b"].cat.categories.tolist() == ["False", "True"]
    assert cells.uns["geneformer_is_b_truth"]["table"]["n_test"].item() == 90
    cells.obs["number"] = np.where(np.arange(90) < 5, np.nan, np.arange(90) % 2 + 1.0)  # whole numbers beside NaN
    trained = train(cells, toy, tmp_path / "numbers", label="number", epochs=1)
    gf.tl.classify(cells, trained, truth="number")
    assert cells.obs["geneformer_number"].cat.categories.tolist() == ["1", "2"]
    assert cells.uns["geneformer_number_truth"]["table"]["n_test"].item() == 85


def test_a_class_that_does_not_train_is_refused(cells, toy, tmp_path):
    cells.obs["part"] = np.where(cells.obs["cell_type"] == "B", "test", "train")
    with pytest.raises(DataError, match="No cell of 'B' would be on the training side"):
        train(cells, toy, tmp_path / "out", split="part")


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"label": "absent"}, "label='absent' is no column of adata.obs"),
        ({"label": []}, "names no column"),
        ({"recipe": "best"}, r"recipe='best' does not exist; choose one of 'default', .* 'mindspore'\.$"),
        ({"recipe": "geneformer"}, "recipe='geneformer' is for another function; choose one of 'default',"),
        ({"learning_rat": 1}, "learning_rat= is no parameter and no setting of a recipe. Did you mean 'learning_rate'"),
        ({"epochs": 0}, "epochs=0 must be a number"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be a whole number"),
        ({"pooling": "cls"}, "needs a model with a <cls> token"),
        ({"frozen_layers": 4}, "frozen_layers=4 is more than the 3 blocks"),
        ({"num_layers": 4}, "num_layers=4 must be from 1 to 3"),
        ({"patience": 1, "fractions": (0.9, 0, 0.1)}, "there are no validation cells"),
        ({"split_by": "nobody"}, "nobody"),
        ({"arguments": 3}, r"arguments=3 must be a dictionary, such as \{'save_steps': 100\}\.$"),
        ({"arguments": {"save_step": 1}}, r"'save_step' is no argument of .* Did you mean 'save_steps'\? help\("),
        ({"arguments": {"bogus": 1}}, r"'bogus' is no argument of transformers\.TrainingArguments\. help\(transf"),
        ({"arguments": {"optim": "best"}}, r"arguments=\{'optim': 'best'\} cannot be used\. .*best.* is not a valid"),
        ({"arguments": {"report_to": "pigeon"}}, "cannot be used. pigeon is not supported, only"),
        (
            {"arguments": {"per_device_train_batch_size": 4, "learning_rate": 1e-3}},
            r"settings of the training are parameters of the call itself\. Write there: batch_size=, learning_rate=\.$",
        ),
        ({"arguments": {"seed": 3}}, r"call itself\. Write there: seed=\.$"),
        ({"arguments": {"output_dir": "elsewhere", "use_cpu": True}}, r"Write there: out=, device=\.$"),
        ({"arguments": {"bf16": True, "fp16": False}}, r"Write there: dtype=\.$"),
        ({"arguments": {"epochs": 1}}, r"Write there: epochs=\.$"),
        ({"arguments": {"num_epochs": 1}}, r"'num_epochs' is no argument of .* Did you mean 'epochs'\? help\("),
        ({"arguments": {"save_steps": 1}, "patience": 1}, "With patience= checkpoints are written where it is"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parameters_that_make_no_sense_are_refused_and_nothing_is_written(unchanged, toy, tmp_path, more, error):
    with pytest.raises(DataError, match=error):
        train(unchanged, toy, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_a_package_that_an_argument_needs_is_asked_for_first(unchanged, toy, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_flytekit_available", lambda: False)
    with pytest.raises(DataError, match=r"cannot be used\. WandbCallback requires wandb to be installed.*[^.]\.$"):
        train(unchanged, toy, tmp_path / "out", arguments={"report_to": "wandb"})
    with pytest.raises(DataError, match=r"cannot be used\. FlyteCallback requires .*[^.]\.$"):
        train(unchanged, toy, tmp_path / "out", arguments={"report_to": "flyte"})
    assert not (tmp_path / "out").exists()


def test_a_directory_that_holds_something_else_stays(unchanged, toy, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="is not empty"):
        train(unchanged, toy, tmp_path)
    with pytest.raises(ModelError, match="no model"):
        train(unchanged, toy, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_empty_cells_are_left_out(cells, toy, tmp_path, log):
    clear_cells(cells, 0, 5)
    train(cells, toy, tmp_path / "out", epochs=1)
    assert "2 of 90 cells with a label have no count of a gene that the model knows" in log()


@pytest.mark.parametrize("more", [{}, {"n_folds": 3}], ids=["parts", "folds"])
def test_a_class_of_empty_cells_alone_is_refused(cells, toy, tmp_path, more):
    clear_cells(cells, *np.flatnonzero(cells.obs["cell_type"] == "B"))
    before = cells.copy()
    with pytest.raises(DataError, match=r"No cell of 'B' would be on the training side.* once cells without a"):
        train(cells, toy, tmp_path / "out", **more)
    clear_cells(cells, *range(90))
    told = "Each of the 3 folds must have a cell with a label once" if more else "No cell of 'B', 'CD4.* once"
    with pytest.raises(DataError, match=told):
        train(cells, toy, tmp_path / "out", **more)
    assert cells.obs.equals(before.obs)
    assert not (tmp_path / "out").exists()


def test_early_stopping_needs_validation_cells_that_are_not_empty(cells, toy, tmp_path):
    cells.obs["part"] = np.resize(["train"] * 7 + ["validation", "test"], 90)
    clear_cells(cells, *np.flatnonzero(cells.obs["part"] == "validation"))
    with pytest.raises(DataError, match="patience stops by the validation loss, and there are no validation cells"):
        train(cells, toy, tmp_path / "out", split="part", patience=1)
    assert not (tmp_path / "out").exists()


# --- classify -------------------------------------------------------------------------------------------------------


def stock_folder(model, folder, *, as_bin):
    """A directory as the reference writes it: a stock `BertForSequenceClassification`, vocabulary beside."""
    from transformers import BertConfig, BertForSequenceClassification

    from scgeneformer._engine.vocabulary import write_vocabulary

    names = dict(enumerate(["alpha", "beta", "gamma"]))
    config = BertConfig.from_dict(model.bert.config.to_dict() | {"id2label": names, "label2id": {}})
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    stock = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    stock.save_pretrained(folder)
    if as_bin:
        (folder / "model.safetensors").unlink()
        torch.save(stock.state_dict(), folder / "pytorch_model.bin")
    write_vocabulary(model.vocabulary, folder)
    return stock


@pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
def test_stock_directories_give_the_stock_probabilities(adata, model, tmp_path, as_bin):
    stock = stock_folder(model, tmp_path, as_bin=as_bin)
    clear_cells(adata, 3)
    gf.tl.classify(adata, tmp_path)
    gf.tl.tokenize(adata, model)
    probability = adata.obsm["geneformer_class_probability"]
    for row, tokens in enumerate(adata.obsm["geneformer_tokens"].astype(np.int64)):
        if row == 3:
            assert np.isnan(probability[row]).all()
            assert pd.isna(adata.obs["geneformer_class"].iloc[row])
            continue
        with torch.no_grad():
            logits = stock(torch.tensor(tokens[tokens > 0][None])).logits[0]
        np.testing.assert_allclose(probability[row], logits.softmax(0), atol=1e-5)
        assert adata.obs["geneformer_class"].iloc[row] == stock.config.id2label[int(logits.argmax())]


def test_a_pickle_that_would_run_code_is_refused(adata, toy, tmp_path):
    import os
    import pickle

    stock_folder(toy, tmp_path, as_bin=True)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="Nothing in it was executed"):
        gf.tl.classify(adata, tmp_path)
    assert not (tmp_path / "evil").exists()


def test_labels_that_the_classifier_does_not_know_are_not_judged(cells, toy, tmp_path, log):
    trained = train(cells, toy, tmp_path / "out", epochs=1)
    other = cells.copy()
    other.obs["cell_type"] = other.obs["cell_type"].astype(str)
    other.obs.loc[other.obs_names[:7], "cell_type"] = "Martian"
    other.obs.loc[other.obs_names[7:9], "cell_type"] = None
    gf.tl.classify(other, trained, truth="cell_type")
    assert "7 cells have a label the classifier does not know, and are not judged: Martian" in log()
    row = other.uns["geneformer_cell_type_truth"]["table"].iloc[0]
    assert row[["n_test", "n_unseen"]].tolist() == [81, 7]
    other.obs["cell_type"] = "Martian"
    with pytest.raises(DataError, match="has no label that the classifier knows: it holds 'Martian'"):
        gf.tl.classify(other, trained, truth="cell_type")
    with pytest.raises(MissingKeyError, match="truth='nothing' is no column"):
        gf.tl.classify(other, trained, truth="nothing")


def test_classifiers_stand_together_where_the_truth_is_the_same(cells, toy, tmp_path):
    trained = train(cells, toy, tmp_path / "one", epochs=1)
    again = gf.models.save(trained, tmp_path / "two")
    cells.obs["other"] = np.random.default_rng(0).permutation(cells.obs["cell_type"].to_numpy(str))
    told = []
    for model, truth in ((trained, "cell_type"), (again, "cell_type"), (trained, "other")):
        gf.tl.classify(cells, model, truth=truth)
        told.append(cells.uns["geneformer_cell_type_truth"]["methods"].tolist())
    assert told == [["classify one"], ["classify one", "classify two"], ["classify one"]]


def test_genes_that_are_missing_count_as_not_expressed(cells, toy, tmp_path):
    trained = train(cells, toy, tmp_path / "out", epochs=1)
    fewer = cells[:, 5:].copy()
    zeros = cells.copy()
    zeros.X = sp.csr_matrix(zeros.X.toarray() * (np.arange(40) >= 5))
    one, other = (gf.tl.classify(adata, trained, copy=True) for adata in (fewer, zeros))
    np.testing.assert_allclose(*(x.obsm["geneformer_cell_type_probability"] for x in (one, other)), atol=1e-6)


def test_a_classifier_leaves_the_genes_of_each_label_alone(cells, toy, tmp_path):
    trained = train(cells, toy, tmp_path / "out", epochs=1, split_by="donor")
    gf.tl.embed_genes(cells, toy, groupby="cell_type")
    stored = cells.uns["geneformer_cell_type"]
    gf.tl.classify(cells, trained)
    assert cells.uns["geneformer_cell_type"] is stored
    assert cells.uns["geneformer_cell_type_params"]["classes"].tolist() == ["B", "CD4+/CD25 T Reg", "T cell"]
    gf.tl.embed_genes(cells, toy, groupby="cell_type")
    assert "classes" in cells.uns["geneformer_cell_type_params"]


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_files(cells, toy, tmp_path, suffix):
    trained = train(cells, toy, tmp_path / "out", epochs=1, split_by="donor")
    gf.tl.classify(cells, trained, truth="cell_type")
    path = tmp_path / f"cells.{suffix}"
    getattr(cells, f"write_{suffix}")(path)
    assert_equal(getattr(ad, f"read_{suffix}")(path), cells)


def test_classify_needs_a_classifier_of_cells(unchanged, toy):
    with pytest.raises(ModelError, match="was built in memory, without a head"):
        gf.tl.classify(unchanged, toy)


def test_a_model_that_is_no_classifier_says_so():
    adata = gf.datasets.pbmc68k()[:5].copy()
    with pytest.raises(ModelError, match=r"mini is no classifier: .*gf\.tl\.train_classifier"):
        gf.tl.classify(adata, "mini")


def test_a_vocabulary_of_another_model_is_refused(cells, toy, tmp_path):
    from scgeneformer._engine.vocabulary import write_vocabulary

    trained = train(cells, toy, tmp_path / "out", epochs=1)
    write_vocabulary(make_model(n_genes=30).vocabulary, trained.folder)
    with pytest.raises(ModelError, match="The vocabulary does not fit the weights"):
        gf.tl.classify(cells, trained)


def test_key_added_names_the_results_and_a_copy_leaves_the_original_alone(cells, toy, tmp_path):
    trained = train(cells, toy, tmp_path / "out", epochs=1)
    before = cells.copy()
    found = gf.tl.classify(cells, trained, key_added="mine", copy=True)
    assert_equal(cells, before)
    assert {"mine", "mine_confidence"} <= set(found.obs)
    assert "mine_probability" in found.obsm
    assert found.uns["mine_params"]["model"] == "out"
