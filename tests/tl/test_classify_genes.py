"""Classes of all genes: against brute force, the stock model, and its own evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_bert, make_model
from transformers import BertConfig, BertForTokenClassification

import scgeneformer as gf
from scgeneformer._engine.class_head import ClassHead
from scgeneformer._engine.vocabulary import write_vocabulary
from scgeneformer._errors import DataError, MissingKeyError, ModelError
from scgeneformer.models._classifier import CELLS, GENES, Task, describe, load_classifier
from scgeneformer.models._save_trained import save_trained

CLASSES = ["sensitive/yes", "insensitive", "neither"]
KEY = "geneformer_dosage"


def save_classifier(folder, model, *, kind: str = GENES, head: str = "linear"):
    """Directory of a classifier of random weights on the encoder of `make_bert`."""
    tensors = ClassHead(model.width, 3, head).initialise(0.5, 1).tensors()
    entries = describe(kind, "first", head, [Task("dosage", CLASSES)])
    bert = make_bert(model.vocabulary)
    save_trained(folder, bert, tensors, model.vocabulary, config=entries, metrics={}, card="")
    return folder


@pytest.fixture
def classifier(tmp_path, model):
    return save_classifier(tmp_path / "classifier", model)


def stock_probabilities(folder, adata, model) -> dict[tuple[int, int], np.ndarray]:
    """Probabilities by the stock model, one cell at a time: (row, column of var) -> (n_classes,)."""
    stock = BertForTokenClassification.from_pretrained(folder).eval()
    padded = gf.tl.tokenize(adata, model, copy=True).obsm["geneformer_tokens"].astype(np.int64)
    first, found = int(model.vocabulary.tokens[0]), {}
    for row, tokens in enumerate(padded):
        tokens = tokens[tokens > 0]
        if len(tokens):
            with torch.no_grad():
                each = torch.softmax(stock(torch.from_numpy(tokens[None])).logits[0], 1).numpy()
            found |= {(row, token - first): p for token, p in zip(tokens, each, strict=True) if token >= first}
    return found


def means(found, adata, cells) -> tuple[np.ndarray, np.ndarray]:
    """Mean over some cells of each gene, and the number of cells that contain it."""
    rows = [[found[i, j] for i in cells if (i, j) in found] for j in range(adata.n_vars)]
    nothing = np.full(len(next(iter(found.values()))), np.nan)
    return np.array([np.mean(r, axis=0) if r else nothing for r in rows]), np.array([len(r) for r in rows])


# --- what is told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens_per_batch", [None, 1])
def test_genes_equal_the_stock_model(adata, model, classifier, tokens_per_batch):
    clear_cells(adata, 2)
    gf.tl.classify_genes(adata, classifier, min_cells=4, groupby="cell_type", tokens_per_batch=tokens_per_batch)
    found = stock_probabilities(classifier, adata, model)
    expected, n_cells = means(found, adata, range(adata.n_obs))
    expected[n_cells < 4] = np.nan
    assert 0 < (n_cells < 4).sum() < adata.n_vars
    probability = adata.varm[f"{KEY}_probability"]
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    np.testing.assert_array_equal(adata.var[f"{KEY}_n_cells"], n_cells)
    told = adata.var[KEY]
    assert told.cat.categories.tolist() == CLASSES
    assert told.isna().tolist() == (n_cells < 4).tolist()
    assert told.cat.codes[n_cells >= 4].tolist() == expected[n_cells >= 4].argmax(axis=1).tolist()
    np.testing.assert_allclose(adata.var[f"{KEY}_confidence"], expected.max(axis=1), atol=1e-5)
    assert adata.uns[KEY]["classes"].tolist() == CLASSES
    for i, label in enumerate(adata.uns[f"{KEY}_cell_type"]["groups"]):
        expected, n_cells = means(found, adata, np.flatnonzero(adata.obs["cell_type"] == label))
        expected[n_cells < 4] = np.nan
        np.testing.assert_allclose(adata.varm[f"{KEY}_cell_type_probability"][:, i], expected, atol=1e-5)
        np.testing.assert_array_equal(adata.varm[f"{KEY}_cell_type_n_cells"][:, i], n_cells)
    assert adata.uns[f"{KEY}_cell_type"]["labels"]["n_cells"].tolist() == [3, 4, 4]  # B, whose cell is empty, first


def test_a_directory_of_the_reference_gives_the_stock_probabilities(adata, model, tmp_path):
    """As the reference writes it: no block of ours, the classes in id2label."""
    bert = make_bert(model.vocabulary)
    entries = {k: v for k, v in bert.config.to_dict().items() if k not in ("id2label", "label2id", "num_labels")}
    torch.manual_seed(0)
    stock = BertForTokenClassification(BertConfig(**entries, num_labels=3, id2label=dict(enumerate(CLASSES))))
    stock.bert.load_state_dict(bert.state_dict())
    stock.save_pretrained(tmp_path / "stock")
    write_vocabulary(model.vocabulary, tmp_path / "stock")
    gf.tl.classify_genes(adata, tmp_path / "stock")
    expected, _ = means(stock_probabilities(tmp_path / "stock", adata, model), adata, range(adata.n_obs))
    np.testing.assert_allclose(adata.varm["geneformer_class_probability"], expected, atol=1e-5)
    assert adata.uns["geneformer_class"]["classes"].tolist() == CLASSES


@pytest.mark.parametrize(("head", "stock"), [("linear", "BertForTokenClassification"), ("mlp", "BertModel")])
def test_only_the_stock_head_passes_for_the_stock_model(model, tmp_path, head, stock):
    folder = save_classifier(tmp_path / head, model, head=head)
    assert json.loads((folder / "config.json").read_text())["architectures"] == [stock]
    assert load_classifier(gf.models.load(folder), GENES).head.kind == head


def test_logits_of_a_trained_directory_are_those_of_its_evaluation_model(adata, toy, tmp_path):
    classes = {"a": [f"G{i}" for i in range(6)], "b": [f"G{i}" for i in range(6, 12)]}
    trained = gf.tl.train_gene_classifier(adata, classes, toy, n_folds=None, out=tmp_path / "out", learning_rate=0.01)
    gf.tl.classify_genes(adata, trained, key_added="mine")
    stock = BertForTokenClassification.from_pretrained(trained.folder)
    assert stock.config.id2label == {0: "a", 1: "b"}
    expected, _ = means(stock_probabilities(trained.folder, adata, toy), adata, range(adata.n_obs))
    np.testing.assert_allclose(adata.varm["mine_probability"], expected, atol=1e-5)
    assert {"mine", "mine_confidence", "mine_n_cells"} <= set(adata.var)


def test_genes_that_share_a_token_are_told_the_same(adata, classifier):
    adata.var.loc["G7", "ensembl_id"] = adata.var.loc["G5", "ensembl_id"]
    gf.tl.classify_genes(adata, classifier)
    probability = adata.varm[f"{KEY}_probability"]
    np.testing.assert_array_equal(probability[5], probability[7])
    assert not np.allclose(probability[5], probability[6])


def test_row_order_does_not_matter(adata, classifier):
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    for one in (adata, shuffled):
        gf.tl.classify_genes(one, classifier)
    np.testing.assert_allclose(adata.varm[f"{KEY}_probability"], shuffled.varm[f"{KEY}_probability"], atol=1e-6)


def test_counts_in_raw_tell_the_genes_of_var(adata, classifier):
    gf.tl.classify_genes(adata, classifier)
    some = adata[:, ["G3", "G30", "G1"]].copy()
    some.raw = adata
    gf.tl.classify_genes(some, classifier, use_raw=True)
    np.testing.assert_array_equal(some.varm[f"{KEY}_probability"], adata[:, some.var_names].varm[f"{KEY}_probability"])


def test_cells_without_label_count_among_all_cells_only(unchanged, classifier):
    changed = unchanged.copy()
    changed.obs.loc["cell0", "cell_type"] = np.nan
    before = changed.copy()
    told = gf.tl.classify_genes(changed, classifier, groupby="cell_type", copy=True)
    assert_equal(changed, before)
    whole = gf.tl.classify_genes(unchanged, classifier, copy=True)
    np.testing.assert_allclose(told.varm[f"{KEY}_probability"], whole.varm[f"{KEY}_probability"], atol=1e-6)
    n_cells = told.varm[f"{KEY}_cell_type_n_cells"].sum(axis=1)
    assert (n_cells <= told.var[f"{KEY}_n_cells"]).all()
    assert (n_cells < told.var[f"{KEY}_n_cells"]).any()


# --- read and refused -----------------------------------------------------------------------------------------------


def test_the_table_lists_genes_by_confidence(adata, classifier):
    gf.tl.classify_genes(adata, classifier, min_cells=4)
    frame = gf.get.gene_classification_df(adata, "dosage")
    columns = [f"probability_{label}" for label in CLASSES]
    assert frame.columns.tolist() == ["gene", "predicted", "confidence", "n_cells", *columns]
    assert (frame["n_cells"] >= 4).all()
    assert frame["confidence"].is_monotonic_decreasing
    row = adata.var_names.get_loc(frame["gene"][0])
    np.testing.assert_array_equal(frame[columns].to_numpy()[0], adata.varm[f"{KEY}_probability"][row])
    sensitive = gf.get.gene_classification_df(adata, "dosage", sort_by=CLASSES[0])
    assert sensitive[columns[0]].is_monotonic_decreasing


def test_what_is_no_classifier_of_genes_is_refused(unchanged, toy, tmp_path):
    with pytest.raises(ModelError, match=r"classifies cells, not genes. Use gf.tl.classify\."):
        gf.tl.classify_genes(unchanged, save_classifier(tmp_path / "cells", toy, kind=CELLS))
    with pytest.raises(ModelError, match="is no classifier"):
        gf.tl.classify_genes(unchanged, gf.models.save(toy, tmp_path / "plain"))
    folder = save_classifier(tmp_path / "genes", toy)
    with pytest.raises(DataError, match="min_cells=0 must be a whole number"):
        gf.tl.classify_genes(unchanged, folder, min_cells=0)
    with pytest.raises(MissingKeyError, match="groupby='nope' is no column"):
        gf.tl.classify_genes(unchanged, folder, groupby="nope")
    with pytest.raises(ModelError, match=r"Use gf.tl.classify_genes\."):
        gf.tl.classify(unchanged, folder)
    with pytest.raises(MissingKeyError, match=r"Run gf\.tl\.classify_genes\(adata, classifier\) first"):
        gf.get.gene_classification_df(unchanged, "dosage")
    with pytest.raises(MissingKeyError, match=r"Run gf\.tl\.train_gene_classifier\(adata, classes\) first"):
        gf.get.gene_classification_df(unchanged, "dosage", held_out=True)


def test_a_head_of_another_shape_is_refused(unchanged, toy, tmp_path):
    folder = save_classifier(tmp_path / "genes", toy)
    config = json.loads((folder / "config.json").read_text())
    config["scgeneformer"]["tasks"][0]["classes"].append("one more")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"classifier.weight is \(3, 16\), not \(4, 16\)"):
        gf.tl.classify_genes(unchanged, folder)


def test_genes_that_the_classifier_does_not_know_are_told_nothing(tmp_path):
    """Genes of the data that the classifier does not know are told nothing."""
    adata = make_adata(n_genes=50)
    gf.tl.classify_genes(adata, save_classifier(tmp_path / "genes", make_model()))
    assert adata.var[KEY].isna().tolist() == [False] * 40 + [True] * 10
    assert np.isnan(adata.varm[f"{KEY}_probability"][40:]).all()
    assert (adata.var[f"{KEY}_n_cells"][40:] == 0).all()
