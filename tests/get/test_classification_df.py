import numpy as np
import pytest
from toys import make_adata

import scgeneformer as gf
from scgeneformer._adata.training.evaluation import with_method
from scgeneformer._training.scores import score


@pytest.fixture
def judged(adata):
    entry = None
    for method, right in (("knn PCA", 0.9), ("logistic PCA", 0.6)):
        probability = np.array([[right, 1 - right], [1 - right, right], [right, 1 - right]])
        entry = with_method(
            entry, ["a", "b/c"], {"checksum": "x"}, method, score(np.array([0, 1, 1]), probability), n_train=4
        )
    adata.uns["geneformer_cell_type_evaluation"] = entry
    return adata


def test_a_row_for_each_method_in_the_order_they_came(judged):
    table = gf.get.classification_df(judged, "cell_type")
    assert table.index.tolist() == ["knn PCA", "logistic PCA"]
    assert table["accuracy"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert table["n_test"].tolist() == [3, 3]
    table["accuracy"] = 0  # a copy
    assert gf.get.classification_df(judged, "cell_type")["accuracy"].tolist() == pytest.approx([2 / 3, 2 / 3])


def test_a_row_for_each_method_and_class(judged):
    frame = gf.get.classification_df(judged, "cell_type", per_class=True)
    assert frame[["method", "class"]].values.tolist() == [
        ["knn PCA", "a"],
        ["knn PCA", "b/c"],
        ["logistic PCA", "a"],
        ["logistic PCA", "b/c"],
    ]
    assert frame["recall"].tolist() == [1, 0.5, 1, 0.5]


def test_label_may_be_a_key(judged):
    judged.uns["geneformer_cell_type_truth"] = judged.uns.pop("geneformer_cell_type_evaluation")
    assert len(gf.get.classification_df(judged, "geneformer_cell_type_truth")) == 2


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_reads_the_same_after_a_file(judged, tmp_path, form):
    import anndata as ad

    path = tmp_path / f"x.{form}"
    getattr(judged, f"write_{form}")(path)
    again = getattr(ad, f"read_{form}")(path)
    for per_class in (False, True):
        before = gf.get.classification_df(judged, "cell_type", per_class=per_class)
        after = gf.get.classification_df(again, "cell_type", per_class=per_class)
        assert after.to_dict() == before.to_dict()


def test_what_is_stored_is_told_where_nothing_is_found(judged):
    with pytest.raises(KeyError, match=r"'geneformer_donor_evaluation'.*'geneformer_cell_type_evaluation'"):
        gf.get.classification_df(judged, "donor")
    with pytest.raises(KeyError, match="those that do: none"):
        gf.get.classification_df(make_adata(), "cell_type")
