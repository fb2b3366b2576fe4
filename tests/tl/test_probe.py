"""`gf.tl.probe`."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from toys import make_adata

import scgeneformer as gf
from scgeneformer._errors import DataError, MissingKeyError

KEY = "geneformer_cell_type_evaluation"


@pytest.fixture
def adata():
    """An embedding that tells the classes, and one of noise."""
    found = make_adata(90)
    rng = np.random.default_rng(0)
    found.obs["donor"] = np.repeat([f"donor {i}" for i in range(9)], 10)
    codes = found.obs["cell_type"].cat.codes.to_numpy()
    found.obsm["X_geneformer"] = (np.eye(3)[codes] + rng.normal(0, 0.1, (90, 3))).astype(np.float32)
    found.obsm["noise"] = rng.normal(size=(90, 4))
    return found


def table_of(adata):
    return gf.get.classification_df(adata, "cell_type")


def test_embeddings_and_pca_stand_beside_each_other(adata):
    gf.tl.probe(adata, "cell_type", methods=("logistic", "knn"), n_neighbors=3)
    table = table_of(adata)
    assert table.index.tolist() == ["logistic X_geneformer", "knn X_geneformer", "logistic PCA", "knn PCA"]
    assert (table.loc[["logistic X_geneformer", "knn X_geneformer"], "accuracy"] == 1).all()
    assert (table.loc[["logistic PCA", "knn PCA"], "accuracy"] < 1).all()
    assert (table["n_train"] == 72).all()
    assert (table["n_test"] == 9).all()
    gf.tl.probe(adata, "cell_type", use_rep="noise")
    assert table_of(adata).index.tolist()[-2:] == ["logistic noise", "logistic PCA"]
    assert len(table_of(adata)) == 5


def test_only_embeddings_of_cells_are_found_by_themselves(adata):
    adata.obsm["X_geneformer_genes"] = np.zeros((90, 2, 3))
    adata.obsm["X_geneformer_L1"] = adata.obsm["noise"]
    gf.tl.probe(adata, "cell_type", methods="knn")
    assert table_of(adata).index.tolist() == ["knn X_geneformer", "knn X_geneformer_L1", "knn PCA"]


def test_without_an_embedding_there_is_pca(adata, log):
    del adata.obsm["X_geneformer"]
    gf.tl.probe(adata, "cell_type", methods="knn")
    assert table_of(adata).index.tolist() == ["knn PCA"]
    assert "no embedding is stored as X_geneformer: PCA alone" in log()


@pytest.mark.parametrize("arguments", [{}, {"split_by": "donor"}, {"n_folds": 3}], ids=["cells", "donors", "folds"])
def test_the_split_is_that_of_split_cells(adata, arguments):
    gf.tl.split_cells(adata, "cell_type", **arguments)
    gf.tl.probe(adata, "cell_type", methods="knn", **arguments)
    one = adata.uns[KEY]["split"]["checksum"]
    stored = "geneformer_fold" if "n_folds" in arguments else "geneformer_split"
    assert one == adata.uns[stored]["params"]["checksum"]
    gf.tl.probe(adata, "cell_type", methods="logistic", C=1.0, split=stored, **arguments)
    assert adata.uns[KEY]["split"]["checksum"] == one
    assert len(table_of(adata)) == 4


def test_it_stands_beside_a_fine_tuned_model(adata, toy, tmp_path):
    gf.tl.probe(adata, "cell_type", methods="knn")
    gf.tl.train_classifier(adata, "cell_type", toy, out=tmp_path / "model", epochs=1)
    assert table_of(adata).index.tolist() == ["knn X_geneformer", "knn PCA", "fine-tuned"]
    assert table_of(adata)["n_test"].nunique() == table_of(adata)["n_train"].nunique() == 1


def test_folds_tell_every_cell_once(adata):
    gf.tl.probe(adata, "cell_type", methods="knn", n_folds=3, split_by="donor")
    table = table_of(adata)
    assert (table[["n_train", "n_test"]] == 90).all(axis=None)
    assert adata.uns[KEY]["confusion"].sum() == 180


def test_without_test_cells_the_validation_cells_are_judged(adata, log):
    gf.tl.probe(adata, "cell_type", fractions=(0.8, 0.2, 0))
    assert "no test cells: the validation cells are judged" in log()
    assert (table_of(adata)["n_test"] == 18).all()


def test_cells_without_an_embedding_are_left_out_of_all_methods(adata, log):
    adata.obsm["X_geneformer"][:4] = np.nan
    gf.tl.probe(adata, "cell_type", methods="knn", n_folds=3)
    assert "4 of 90 cells with a label have no embedding (NaN): left out" in log()
    assert (table_of(adata)["n_test"] == 86).all()


def test_the_order_of_the_rows_does_not_matter(adata):
    shuffled = adata[np.random.default_rng(0).permutation(90)].copy()
    for one in (adata, shuffled):
        gf.tl.probe(one, "cell_type", methods=("logistic", "knn"), split_by="donor")
    np.testing.assert_allclose(table_of(adata), table_of(shuffled), rtol=1e-4)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_it_survives_storage(adata, form, tmp_path):
    gf.tl.probe(adata, "cell_type", methods="knn", split_by="donor")
    getattr(adata, f"write_{form}")(tmp_path / "x")
    again = getattr(ad, f"read_{form}")(tmp_path / "x")
    assert_equal(again.uns[KEY], adata.uns[KEY])
    gf.tl.probe(again, "cell_type", methods="logistic", C=1, split_by="donor")
    assert len(table_of(again)) == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"label": "x"}, "label='x' is no column"),
        ({"use_rep": "x"}, r"adata.obsm\['x'\] does not exist; the keys are: none"),
        ({"methods": "svm"}, "methods='svm' does not exist; choose one of 'logistic', 'logistic_l1', 'knn'"),
        ({"methods": ()}, r"methods=\[\] names no method"),
        ({"C": 0}, "C=0 must be a number above 0"),
        ({"n_pcs": 0}, "n_pcs=0 must be a whole number"),
        ({"n_neighbors": 1.5}, "n_neighbors=1.5 must be a whole number"),
        ({"fractions": (1, 0, 0)}, "no test and no validation cells to judge"),
        ({"counts_layer": "x"}, r"adata.layers\['x'\] does not exist"),
        ({"split_by": "x"}, "split_by='x' is no column"),
    ],
)
def test_what_cannot_be_probed_is_refused_and_nothing_is_written(arguments, text, plain):
    before = plain.copy()
    with pytest.raises((DataError, MissingKeyError), match=text):
        gf.tl.probe(plain, **{"label": "cell_type", **arguments})
    assert_equal(plain, before)


@pytest.fixture
def plain():
    return make_adata(30)


def test_methods_stand_together_only_where_the_held_out_labels_are_the_same(adata, log):
    gf.tl.split_cells(adata, "cell_type")
    part, rng = adata.obs["geneformer_split"], np.random.default_rng(0)

    def probe(method):
        gf.tl.probe(adata, "cell_type", methods=method, split="geneformer_split", use_rep="noise", n_neighbors=3)
        return table_of(adata).index.tolist()

    def shuffle(chosen):
        rows, labels = np.flatnonzero(part == chosen), adata.obs["cell_type"].to_numpy(str)
        labels[rows] = labels[rng.permutation(rows)]
        adata.obs["cell_type"] = labels

    knn, logistic = ["knn noise", "knn PCA"], ["logistic noise", "logistic PCA"]
    assert probe("knn") == knn
    shuffle("train")
    assert probe("logistic") == knn + logistic
    shuffle("test")
    assert probe("knn") == knn
    assert "was about other cells or labels, and begins anew" in log()
