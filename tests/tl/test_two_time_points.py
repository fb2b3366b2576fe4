from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_counts, make_model
from typer.testing import CliRunner

import scgeneformer as gf
from scgeneformer._errors import DataError, MissingKeyError
from scgeneformer.cli import app

LEARNS = {"epochs": 8, "learning_rate": 1e-2, "dropout": 0.0}


@pytest.fixture
def adata():
    """Twelve cells and what was before; of cell 1 only that, of cell 2 only the present, of cell 3 nothing."""
    adata = make_adata()
    before = make_counts(density=0.3, seed=7).toarray()
    before[[2, 3]] = 0
    adata.layers["before"] = sp.csr_matrix(before)
    clear_cells(adata, 1, 3)
    return adata


@pytest.fixture(params=[False, True], ids=["no special tokens", "cls and eos"])
def model(request):
    return make_model(special=request.param, two_times=True)


def expected_tokens(adata, vocabulary):
    """Both halves by the definition; symbols G<i> carry the token of gene i."""
    padded = np.zeros((adata.n_obs, vocabulary.input_size), dtype=np.uint16)
    matrices = (adata.X.toarray().astype(float), adata.layers["before"].toarray().astype(float))
    for i, row in enumerate(padded):
        halves = []
        for cell in (matrix[i] for matrix in matrices):
            genes = sorted(np.flatnonzero(cell), key=lambda g: (-cell[g] / vocabulary.medians[g], g))
            halves.append(vocabulary.tokens[genes][: vocabulary.max_genes].tolist())
        if any(halves):
            special = vocabulary.special
            full = [special["<cls>"], *halves[0], special["<sep>"], *halves[1], *[3] * vocabulary.n_trail]
            row[: len(full)] = full
    return padded


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_tokens_of_both_times_are_written(adata, model):
    gf.tl.tokenize(adata, model, previous_layer="before")
    found = adata.obsm["geneformer_tokens"]
    np.testing.assert_array_equal(found, expected_tokens(adata, model.vocabulary))
    np.testing.assert_array_equal(adata.obs["geneformer_n_tokens"], (found > 0).sum(axis=1))
    assert adata.obs["geneformer_n_tokens"].iloc[3] == 0
    np.testing.assert_array_equal(adata.obs["geneformer_n_genes"], (adata.X.toarray() > 0).sum(axis=1))
    stored = adata.uns["geneformer_tokens"]
    assert stored["params"]["previous_layer"] == "before"
    assert stored["max_genes"] == model.vocabulary.max_genes == (7 if model.vocabulary.n_trail == 0 else 6)


@pytest.mark.parametrize("special", [False, True])
def test_tokens_for_a_model_of_one_time_point_are_those_of_the_model_it_becomes(adata, special):
    one, two = make_model(special=special), make_model(special=special, two_times=True)
    found = gf.tl.tokenize(adata, one, previous_layer="before", copy=True)
    assert_equal(found, gf.tl.tokenize(adata, two, previous_layer="before", copy=True))


def test_blocks_do_not_show(adata, model, monkeypatch):
    one = gf.tl.tokenize(adata, model, previous_layer="before", copy=True)
    monkeypatch.setattr("scgeneformer._adata.tokens.ROWS_PER_BLOCK", 5)
    assert_equal(gf.tl.tokenize(adata, model, previous_layer="before", copy=True), one)


def test_genes_that_share_a_token_are_summed_at_both_times(adata, model):
    columns = [*range(40), 3]
    layers = {"before": adata.layers["before"][:, columns]}
    more = ad.AnnData(adata.X[:, columns], var=pd.DataFrame(index=[*adata.var_names, "G3-1"]), layers=layers)
    summed = adata.copy()
    for matrix in (summed.X, summed.layers["before"]):
        matrix.data[matrix.indices == 3] *= 2
    gf.tl.tokenize(more, model, previous_layer="before")
    gf.tl.tokenize(summed, model, previous_layer="before")
    np.testing.assert_array_equal(more.obsm["geneformer_tokens"], summed.obsm["geneformer_tokens"])


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_a_row_of_nan_is_a_past_that_is_not_known(adata, model, kind):
    expected = gf.tl.tokenize(adata, model, previous_layer="before", copy=True)
    before = adata.layers["before"].toarray()
    before[[2, 3]] = np.nan
    adata.layers["before"] = {"dense": np.asarray, "csr": sp.csr_matrix, "csc": sp.csc_matrix}[kind](before)
    gf.tl.tokenize(adata, model, previous_layer="before")
    np.testing.assert_array_equal(adata.obsm["geneformer_tokens"], expected.obsm["geneformer_tokens"])
    assert np.isnan(adata.layers["before"][2].toarray() if kind != "dense" else adata.layers["before"][2]).all()


def test_a_single_nan_is_refused(adata, model):
    adata.layers["other"] = adata.layers["before"].copy()
    adata.layers["before"].data[0] = np.nan
    text = r"adata.layers\['before'\] holds NaN.*If they are elsewhere, say so: previous_layer='other'\.$"
    with pytest.raises(DataError, match=text):
        gf.tl.tokenize(adata, model, previous_layer="before")


# --- models that read two time points -------------------------------------------------------------------------------


def test_stored_tokens_are_used_and_name_the_layer(adata, model, log, tmp_path):
    expected = gf.tl.embed_cells(adata, model, previous_layer="before", copy=True)
    assert "tokens stored in" not in log()
    gf.tl.tokenize(adata, model, previous_layer="before")
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    gf.tl.embed_cells(found, model)
    assert "taking previous_layer='before', as stored tokens do" in log()
    assert "using the tokens stored in adata.obsm['geneformer_tokens']" in log()
    np.testing.assert_array_equal(found.obsm["X_geneformer"], expected.obsm["X_geneformer"])
    assert found.uns["X_geneformer"]["params"]["previous_layer"] == "before"
    assert np.isnan(found.obsm["X_geneformer"]).all(axis=1).nonzero()[0].tolist() == [3]


def test_tokens_of_another_past_are_not_used(adata, model, log):
    adata.layers["other"] = adata.layers["before"][::-1].copy()
    expected = gf.tl.embed_cells(adata, model, previous_layer="other", copy=True)
    gf.tl.tokenize(adata, model, previous_layer="before")
    gf.tl.embed_cells(adata, model, previous_layer="other")
    assert "using the tokens stored" not in log()
    np.testing.assert_array_equal(adata.obsm["X_geneformer"], expected.obsm["X_geneformer"])


def test_the_past_changes_cells_and_genes(adata, model):
    adata.layers["none"] = sp.csr_matrix(adata.shape, dtype=np.float32)
    one, other = (gf.tl.embed_cells(adata, model, previous_layer=name, copy=True) for name in ("before", "none"))
    differ = ~np.isclose(one.obsm["X_geneformer"], other.obsm["X_geneformer"], equal_nan=True).all(axis=1)
    assert differ.nonzero()[0].tolist() == [i for i in range(12) if i not in (2, 3)]
    one, other = (gf.tl.embed_genes(adata, model, previous_layer=name, copy=True) for name in ("before", "none"))
    np.testing.assert_array_equal(one.varm["geneformer_n_cells"], other.varm["geneformer_n_cells"])
    assert not np.allclose(one.varm["geneformer"], other.varm["geneformer"], equal_nan=True)
    gf.tl.attention(adata, model, previous_layer="before")
    gf.tl.attention(other, model, previous_layer="none")
    assert (adata.varp["geneformer_attention_n_cells"] != other.varp["geneformer_attention_n_cells"]).nnz == 0


# --- training -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cells():
    """Ninety cells that look alike now; of which of three types they are, only the past tells."""
    cells = make_adata(90)
    before, codes = make_counts(90, seed=3).toarray(), np.arange(90) % 3
    for code in range(3):
        before[np.ix_(codes == code, range(code * 6, code * 6 + 6))] += 40
    cells.layers["before"] = sp.csr_matrix(before)
    cells.obs["kind"] = pd.Categorical(np.array(["a", "b", "c"])[codes])
    return cells


def accuracy(cells):
    return cells.uns["geneformer_kind_evaluation"]["table"]["accuracy"].item()


@pytest.mark.parametrize("special", [False, True])
def test_a_model_of_one_time_point_learns_to_read_two(cells, tmp_path, special):
    start, more = make_model(special=special, input_size=24), {**LEARNS, "fractions": (0.6, 0.0, 0.4)}
    more["seed"] = 42  # some take longer to learn
    gf.tl.train_classifier(cells, "kind", start, out=tmp_path / "now", **more)
    assert accuracy(cells) < 0.6
    trained = gf.tl.train_classifier(cells, "kind", start, out=tmp_path / "two", previous_layer="before", **more)
    assert accuracy(cells) > 0.8
    loaded = gf.models.load(trained)
    assert {"<cls>", "<sep>"} <= set(loaded.vocabulary.special)
    assert (
        loaded.bert.config.vocab_size == loaded.vocabulary.n_tokens == start.vocabulary.n_tokens + (1 if special else 2)
    )
    gf.tl.classify(cells, trained, previous_layer="before")
    told, test = cells.obs["geneformer_kind"].astype(str), cells.obs["geneformer_split"] == "test"
    assert (told == cells.obs["kind"].astype(str))[test].mean() == pytest.approx(accuracy(cells))
    gf.tl.embed_cells(cells, trained, previous_layer="before", pooling="cls")
    assert cells.obsm["X_geneformer"].shape == (90, 16)


def test_training_goes_on_with_a_model_that_reads_two(cells, tmp_path):
    more = {"fractions": (0.6, 0.0, 0.4), "epochs": 0.5}
    trained = gf.tl.train_classifier(cells, "kind", make_model(), out=tmp_path / "a", previous_layer="before", **more)
    again = gf.tl.train_classifier(cells, "kind", trained, out=tmp_path / "b", previous_layer="before", **more)
    one, two = (gf.models.load_vocabulary(folder) for folder in (trained, again))
    assert one.special == two.special
    with pytest.raises(DataError, match="Name the layer with the counts before"):
        gf.tl.train_classifier(cells, "kind", trained, out=tmp_path / "c", **more)


def test_another_past_is_another_training(cells, tmp_path):
    """The layer is part of what a checkpoint is compared by."""
    from scgeneformer.tl._training import begin

    cells.layers["other"] = cells.layers["before"][::-1].copy()
    where = {"counts_layer": None, "use_raw": None, "gene_ids": None, "device": "cpu", "dtype": "float32"}
    more = {"out": tmp_path / "x", "default_out": "", "arguments": None, "overwrite": False, "seed": 0, **where}
    layers = (None, "before", "other")
    requests = [begin(cells, make_model(), "default", {}, previous_layer=name, **more).request() for name in layers]
    assert all(one != other for one, other in zip(requests, [*requests[1:], requests[0]], strict=True))


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [gf.tl.embed_cells, gf.tl.embed_genes, gf.tl.attention])
def test_a_model_of_one_time_point_takes_no_past(unchanged, toy, function):
    with pytest.raises(
        DataError, match=r"reads one time point.*train_classifier\(\.\.\., previous_layer='before'\); or leave"
    ):
        function(unchanged, toy, previous_layer="before")


def test_a_model_of_two_time_points_needs_both(unchanged, model):
    with pytest.raises(DataError, match=r"reads two time points of a cell\. Name the layer.*: previous_layer='\.\.\.'"):
        gf.tl.embed_cells(unchanged, model)
    with pytest.raises(MissingKeyError, match=r"adata.layers\['past'\] does not exist; the layers are: 'before'"):
        gf.tl.embed_cells(unchanged, model, previous_layer="past")


def test_raw_has_other_genes_than_the_past(unchanged, model):
    with pytest.raises(DataError, match=r"use_raw=True and two time points.*counts_layer='\.\.\.'"):
        gf.tl.tokenize(unchanged, model, previous_layer="before", use_raw=True)


def test_there_must_be_room_for_a_gene_of_each(unchanged, toy, tmp_path):
    with pytest.raises(DataError, match=r"3 tokens have no room for a gene of each time point beside 2.*at least 4"):
        gf.tl.train_classifier(unchanged, "cell_type", toy, out=tmp_path / "out", previous_layer="before", max_tokens=3)


GENES = {"one": ["G0", "G1", "G2", "G3", "G4"], "two": ["G5", "G6", "G7", "G8", "G9"]}
REFUSE = {
    "perturb": lambda adata, model: gf.tl.perturb(adata, ["G1"], model=model),
    "score_masked_genes": lambda adata, model: gf.tl.score_masked_genes(adata, model),
    "predict_masked_genes": lambda adata, model: gf.tl.predict_masked_genes(adata, ["G1"], model),
    "train_gene_classifier": lambda adata, model: gf.tl.train_gene_classifier(adata, GENES, model, n_folds=None),
    "classify_genes": lambda adata, model: gf.tl.classify_genes(adata, model),
}


@pytest.mark.parametrize("function", REFUSE)
def test_functions_in_which_a_gene_occurs_once_refuse_two_time_points(
    unchanged, model, function, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"reads two time points.*a gene occurs once\. Take a model that reads one"):
        REFUSE[function](unchanged, model)


# --- the command line -----------------------------------------------------------------------------------------------


def test_commands_name_the_layer(tmp_path):
    path = tmp_path / "cells.h5ad"
    cells = gf.datasets.pbmc68k()[:12].copy()
    cells.layers["before"] = cells.X[::-1].copy()
    cells.write_h5ad(path)
    call = partial(CliRunner().invoke, app)
    assert call(["tokenize", str(path), "-m", "mini", "--previous-layer", "before", "--in-place"]).exit_code == 0
    assert ad.read_h5ad(path).uns["geneformer_tokens"]["params"]["previous_layer"] == "before"
    refused = call(["embed", str(path), "-m", "mini", "--previous-layer", "before", "--in-place"])
    assert "The model reads one time point of a cell" in refused.stderr
    folder = ["--out", str(tmp_path / "cells.dataset")]
    refused = call(["tokenize", str(path), "-m", "mini", "--previous-layer", "before", *folder])
    assert "folders of tokens hold one time point" in refused.stderr.replace("\n", " ")
