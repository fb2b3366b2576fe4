"""Classes of genes: from lists of genes to a directory, judged on genes that were held out."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal
from safetensors.numpy import load_file
from toys import Stop, clear_cells, make_adata, make_model

import scgeneformer as gf
from scgeneformer._errors import DataError, ModelError

CLASSES = {"sensitive/yes": [f"G{i}" for i in range(6)], "insensitive": [f"G{i}" for i in range(6, 13)]}
KEY = "geneformer_dosage_evaluation"
SETTINGS = {"label": "dosage", "n_folds": 2, "learning_rate": 1e-2}


def train(adata, model, out, classes=None, **changes):
    return gf.tl.train_gene_classifier(adata, classes or CLASSES, model, out=out, **{**SETTINGS, **changes})


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(one, other):
    found, expected = weights(one), weights(other)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.fixture
def learnable():
    """Genes of the first class are always on top of the cell and those of the second below, so that rank tells."""
    adata = make_adata(40)
    counts = adata.X.toarray()
    counts[:, :6] = (counts[:, :6] > 0) * 100
    counts[:, 13:] *= 10
    adata.X = sp.csr_matrix(counts)
    return adata


# --- what is learned and stored -------------------------------------------------------------------------------------


def test_what_can_be_learned_is_told_of_held_out_genes(learnable, toy, tmp_path):
    # of 13 genes, told by two models, the AUC by gene is 0.77 to 0.94 with other starts
    trained = train(learnable, toy, tmp_path / "out", epochs=4, dropout=0.0, seed=1)
    found = learnable.uns[KEY]
    assert found["table"].loc["fine-tuned, genes in cells", "auc"] > 0.9
    assert found["table"].loc["fine-tuned, genes", "auc"] > 0.9
    assert found["roc"]["mean_auc"][0] > 0.9
    gf.tl.classify_genes(learnable, trained)
    assert learnable.var["geneformer_dosage"][:6].tolist() == ["sensitive/yes"] * 6


def test_everything_stored_fits_together(adata, model, tmp_path):
    trained = train(adata, model, tmp_path / "out", n_folds=3)
    found = adata.uns[KEY]
    genes, probability = found["genes"], found["probability"]
    assert genes.index.tolist() == [f"G{i}" for i in range(13)]
    assert genes["class"].tolist() == ["sensitive/yes"] * 6 + ["insensitive"] * 7
    assert sorted(genes.groupby("class")["fold"].value_counts()) == [2, 2, 2, 2, 2, 3]  # stratified
    tokens = gf.tl.tokenize(adata, model, copy=True).obsm["geneformer_tokens"]
    token = model.vocabulary.token_of_name
    assert genes["n_cells"].tolist() == [int((tokens == token[f"G{i}"]).any(axis=1).sum()) for i in range(13)]
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(genes["confidence"], probability.max(axis=1))
    assert genes["predicted"].tolist() == found["classes"][probability.argmax(axis=1)].tolist()
    right = (genes["predicted"] == genes["class"]).mean()
    assert found["table"].loc["fine-tuned, genes", "accuracy"] == pytest.approx(right)
    assert found["table"]["n_test"].tolist() == [13, genes["n_cells"].sum()]
    assert found["confusion"].shape == (2, 2, 2)
    assert found["roc"]["classes"].tolist() == ["sensitive/yes"]
    assert found["roc"]["tpr"].shape == (1, 3, 100)
    assert found["split"]["n_folds"] == 3
    frame = gf.get.gene_classification_df(adata, "dosage", held_out=True).set_index("gene").loc[genes.index]
    assert frame[["class", "fold", "predicted"]].equals(genes[["class", "fold", "predicted"]])
    np.testing.assert_array_equal(frame["probability_sensitive/yes"], probability[:, 0])
    stored = json.loads((trained.folder / "metrics.json").read_text())
    assert stored["metrics"]["genes"]["accuracy"] == pytest.approx(right)
    assert stored["genes"] == CLASSES
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {"0": "sensitive/yes", "1": "insensitive"}
    card = (trained.folder / "README.md").read_text()
    assert "| genes in cells | auc over folds |" in card
    assert "sensitive/yes (6 genes), insensitive (7 genes)" in card
    assert [line.split(":")[0] for line in repr(trained).splitlines()[1:]] == ["    genes", "    genes in cells"]
    assert not {"checkpoints", "training.json"} & {path.name for path in trained.folder.iterdir()}


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_results_survive_files(adata, toy, tmp_path, form):
    trained = train(adata, toy, tmp_path / "out")
    gf.tl.classify_genes(adata, trained, groupby="cell_type")
    path = tmp_path / f"a.{form}"
    (adata.write_h5ad if form == "h5ad" else adata.write_zarr)(path)
    assert_equal((ad.read_h5ad if form == "h5ad" else ad.read_zarr)(path), adata)


def test_without_folds_nothing_is_judged(adata, toy, tmp_path):
    trained = train(adata, toy, tmp_path / "out", n_folds=None)
    assert KEY not in adata.uns
    assert trained.metrics["metrics"] == {}
    assert "Nothing was held out." in (trained.folder / "README.md").read_text()
    assert_same_weights(trained.folder, train(adata, toy, tmp_path / "more", n_folds=0).folder)
    assert_same_weights(trained.folder, train(adata, toy, tmp_path / "folds").folder)  # of all genes there, too


def test_three_classes_have_a_curve_each(adata, toy, tmp_path):
    classes = {**CLASSES, "third": [f"G{i}" for i in range(20, 26)]}
    train(adata, toy, tmp_path / "out", classes, n_folds=2)
    assert adata.uns[KEY]["roc"]["mean_tpr"].shape == (3, 100)
    assert adata.uns[KEY]["probability"].shape == (19, 3)


# --- genes and cells ------------------------------------------------------------------------------------------------


def test_genes_are_found_by_any_name_and_missing_ones_are_named(adata, toy, tmp_path, log):
    adata = adata[:, [f"G{i}" for i in range(39)]].copy()
    classes = {"a": ["ENSG00000000000", "g1", "G2", "OLD3", "G4", "G4"], "b": [*CLASSES["insensitive"], "G39", "NOPE"]}
    train(adata, toy, tmp_path / "out", classes)
    assert "2 of 9 genes of 'b' are left out (not in adata.var: 'G39'; unknown to the model: 'NOPE')" in log()
    assert adata.uns[KEY]["genes"].index[:5].tolist() == ["ENSG00000000000", "g1", "G2", "OLD3", "G4"]


def test_genes_in_no_cell_are_left_out(adata, toy, tmp_path, log):
    counts = adata.X.toarray()
    counts[:, 12] = 0
    adata.X = sp.csr_matrix(counts)
    train(adata, toy, tmp_path / "out")
    assert "1 of 13 genes are in none of the cells and left out: 'G12'" in log()
    assert len(adata.uns[KEY]["genes"]) == 12


def test_row_order_empty_cells_and_batches_do_not_matter(adata, toy, tmp_path):
    clear_cells(adata, 3, 7)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    one = train(adata, toy, tmp_path / "a", sample=8)
    other = train(shuffled, toy, tmp_path / "b", sample=8)
    assert_same_weights(one.folder, other.folder)
    np.testing.assert_array_equal(adata.uns[KEY]["probability"], shuffled.uns[KEY]["probability"])
    assert adata.uns[KEY]["split"] == shuffled.uns[KEY]["split"]


def test_only_cells_with_target_genes_train_up_to_the_sample(adata, toy, tmp_path, log):
    counts = adata.X.toarray()
    counts[:4, :13] = 0
    adata.X = sp.csr_matrix(counts)
    train(adata, toy, tmp_path / "a", n_folds=None)
    assert "13 genes in 8 cells" in log()
    train(adata, toy, tmp_path / "b", sample=6, n_folds=None)
    assert "over a random sample of 6 of 8 cells" in log()
    assert "13 genes in 6 cells" in log()


def test_the_order_in_which_genes_are_listed_does_not_matter(adata, toy, tmp_path):
    one = train(adata, toy, tmp_path / "a")
    other = train(adata.copy(), toy, tmp_path / "b", {label: genes[::-1] for label, genes in CLASSES.items()})
    assert_same_weights(one.folder, other.folder)


# --- cut off and resumed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5, 13], ids=["first fold", "third fold", "last model"])
def test_a_run_that_was_cut_off_goes_on(unchanged, toy, tmp_path, stop_after, log, step):
    whole, cut = unchanged.copy(), {"n_folds": 3, "batch_size": 6, "epochs": 2}
    expected = train(whole, toy, tmp_path / "whole", **cut)
    assert log().count("fold 1 of 3") == 1
    stop_after(step)
    with pytest.raises(Stop):
        train(unchanged, toy, tmp_path / "cut", **cut)
    again = unchanged.copy()
    resumed = train(again, toy, tmp_path / "cut", **cut)
    assert_same_weights(expected.folder, resumed.folder)
    np.testing.assert_array_equal(whole.uns[KEY]["probability"], again.uns[KEY]["probability"])
    assert log().count("fold 1 of 3") == (3 if step == 1 else 2)


def test_another_request_does_not_go_on(adata, toy, tmp_path, stop_after):
    stop_after(1)
    with pytest.raises(Stop):
        train(adata, toy, tmp_path / "out")
    fewer = {**CLASSES, "insensitive": CLASSES["insensitive"][:5]}
    with pytest.raises(DataError, match=r"differs in split"):
        train(adata, toy, tmp_path / "out", fewer)
    train(adata, toy, tmp_path / "out", fewer, overwrite=True)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["G1", "G2"], "classes must name each class and list its genes"),
        ({"a": CLASSES["insensitive"]}, "at least two classes of different names, .* it has 'a'"),
        ({1: ["G1"], "1": ["G2"]}, "at least two classes of different names"),
        ({**CLASSES, "c": ["NOPE"]}, "None of the genes of 'c' can be used .*unknown to the model: 'NOPE'"),
        ({**CLASSES, "c": []}, "None of the genes of 'c' can be used"),
        (
            {**CLASSES, "c": ["ENSG00000000003"]},
            "'G3' of class 'sensitive/yes' and 'ENSG00000000003' of class 'c' are one",
        ),
        (
            {**CLASSES, "insensitive": ["G6", "G7", "G8", "G9"]},
            "at least 5 genes .*: 'insensitive' has 4. List more genes",
        ),
    ],
)
def test_classes_that_cannot_be_used_are_refused_and_nothing_is_written(unchanged, toy, tmp_path, classes, said):
    with pytest.raises(DataError, match=said):
        train(unchanged, toy, tmp_path / "out", classes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_folds": 7}, "at least 7 genes .*'sensitive/yes' has 6"),
        ({"n_folds": 1}, "n_folds=1 must be a whole number of at least 2"),
        ({"sample": 0}, "sample=0 must be a whole number"),
        ({"label": ""}, "label='' must be a text"),
        ({"patience": 2, "n_folds": None}, "patience=2 watches .* at least three folds"),
        ({"patience": 2, "n_folds": 2}, "at least three folds"),
        ({"num_layers": 9}, "num_layers=9 must be from 1 to 3"),
        ({"learning": 1}, "learning= is no parameter"),
        ({"arguments": {"bogus": 1}}, "'bogus' is no argument of transformers.TrainingArguments"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_and_nothing_is_written(unchanged, toy, tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        train(unchanged, toy, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_cells_without_the_genes_are_refused(adata, toy, tmp_path):
    counts = adata.X.toarray()
    counts[:, :13] = 0
    adata.X = sp.csr_matrix(counts)
    with pytest.raises(DataError, match="No cell contains any of the genes"):
        train(adata, toy, tmp_path / "out")


def test_a_directory_with_something_else_is_left_alone(unchanged, toy, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="is not empty"):
        train(unchanged, toy, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_early_stopping_watches_another_fold(adata, tmp_path):
    trained = train(adata, make_model(n_blocks=1), tmp_path / "out", patience=1, epochs=2, n_folds=3)
    assert any("eval_loss" in entry for entry in trained.metrics["history"])
