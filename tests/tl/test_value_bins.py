"""Models of value bins in the functions that use models: what they read, and what is refused."""

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata.tests.helpers import assert_equal
from toys import make_adata, make_bert, make_vocabulary

import scgeneformer as gf
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.value_bins import ValueBinned
from scgeneformer.models import Model


@pytest.fixture(params=[False, True], ids=["expressed", "zeros"])
def binned(request):
    """A model of value bins with special tokens."""
    vocabulary = replace(make_vocabulary(special=True, input_size=44), encoding=ValueBinned(9, request.param))
    return make_binned(vocabulary)


def make_binned(vocabulary):
    bert = use_own_kernels(make_bert(vocabulary)).requires_grad_(False)
    return Model("binned", "tests", "", "0" * 64, vocabulary, bert, torch.device("cpu"), torch.float32, Path())


def embeddings(adata, model, **settings):
    return gf.tl.embed_cells(adata, model, copy=True, **settings).obsm["X_geneformer"]


def test_the_model_is_told_the_bins(adata, binned):
    """One cell through the stock model, with its bins as positions."""
    found = embeddings(adata, binned, layer=-1, pooling="cls")
    gf.tl.tokenize(adata, binned)
    for i in (0, 7):
        n = adata.obs["geneformer_n_tokens"].iloc[i]
        ids = torch.from_numpy(adata.obsm["geneformer_tokens"][i, :n].astype(int))[None]
        bins = torch.from_numpy(adata.obsm["geneformer_bins"][i, :n].astype(int))[None]
        stock = make_bert(binned.vocabulary)
        with torch.inference_mode():
            expected = stock(ids, position_ids=bins).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_stored_tokens_hold_the_bins(adata, binned, log):
    before = embeddings(adata, binned)
    gf.tl.tokenize(adata, binned)
    bins, tokens = adata.obsm["geneformer_bins"], adata.obsm["geneformer_tokens"]
    assert bins.dtype == np.uint8
    assert bins.shape == tokens.shape == (12, 44)
    assert (bins[:, 0] == 9).all()
    assert bins[tokens == 0].max() == 0
    assert set(np.unique(bins)) <= set(range(10))
    np.testing.assert_array_equal(embeddings(adata, binned), before)
    assert "using the tokens stored" in log()


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_stored_bins_survive_files(adata, binned, tmp_path, how):
    gf.tl.tokenize(adata, binned)
    path = tmp_path / f"a.{how}"
    getattr(adata, f"write_{how}")(path)
    again = getattr(ad, f"read_{how}")(path)
    assert_equal(again, adata)
    np.testing.assert_array_equal(embeddings(again, binned), embeddings(adata, binned))


def test_tokens_without_their_bins_are_not_used(adata, binned, log):
    gf.tl.tokenize(adata, binned)
    del adata.obsm["geneformer_bins"]
    embeddings(adata, binned)
    assert "using the tokens stored" not in log()


def test_zeros_are_read_only_where_the_encoding_says_so(adata, binned):
    gf.tl.tokenize(adata, binned)
    n_tokens, n_genes = adata.obs["geneformer_n_tokens"], adata.obs["geneformer_n_genes"]
    assert (n_tokens == (42 if binned.vocabulary.encoding.zeros else n_genes + 2)).all()
    assert (n_genes == np.asarray((adata.X > 0).sum(axis=1)).ravel()).all()


def test_values_matter_and_scale_does_not(adata, binned):
    scaled, other = adata.copy(), adata.copy()
    scaled.X = scaled.X * 7
    other.X.data = 6 - other.X.data
    np.testing.assert_array_equal(embeddings(scaled, binned), embeddings(adata, binned))
    assert np.abs(embeddings(other, binned) - embeddings(adata, binned)).max() > 0.01


def test_cells_do_not_depend_on_the_batch(adata, binned):
    one = embeddings(adata, binned, tokens_per_batch=1)
    np.testing.assert_allclose(one, embeddings(adata, binned, tokens_per_batch=10_000), atol=1e-5)


def test_genes_and_groups_are_embedded(adata, binned):
    gf.tl.embed_genes(adata, binned, groupby="cell_type", layer=0)
    gf.tl.embed_genes(adata, binned, layer=0, sample=8, key_added="some")
    bins = gf.tl.tokenize(adata, binned, copy=True)
    token, layer_norm = 2 + 2 + 5, binned.bert.embeddings.LayerNorm  # of the gene G5
    there = bins.obsm["geneformer_tokens"] == token
    positions = torch.from_numpy(bins.obsm["geneformer_bins"][there].astype(int))
    table = binned.bert.embeddings
    with torch.inference_mode():
        rows = table.word_embeddings.weight[token] + table.token_type_embeddings.weight[0]
        expected = layer_norm(rows + table.position_embeddings(positions)).mean(dim=0).numpy()
    np.testing.assert_allclose(adata.varm["geneformer"][5], expected, atol=1e-5)
    assert adata.varm["geneformer_n_cells"][5, 0] == there.sum()


def test_classifiers_are_trained_and_used(adata, binned, tmp_path):
    settings = {"epochs": 1, "learning_rate": 1e-3, "fractions": (0.7, 0.3, 0.0)}
    trained = gf.tl.train_classifier(adata, "cell_type", binned, out=tmp_path / "m", **settings)
    loaded = gf.models.load(trained.folder, device="cpu")
    assert loaded.vocabulary.encoding == binned.vocabulary.encoding
    assert loaded.vocabulary.input_size == 44
    gf.tl.classify(adata, trained)
    assert adata.obs["geneformer_cell_type"].notna().all()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda adata, model: gf.tl.perturb(adata, ["G1"], model=model), r"gf\.tl\.perturb"),
        (lambda adata, model: gf.tl.score_masked_genes(adata, model), r"gf\.tl\.score_masked_genes"),
        (lambda adata, model: gf.tl.predict_masked_genes(adata, ["G1"], model), r"gf\.tl\.predict_masked_genes"),
    ],
    ids=["perturb", "score", "predict"],
)
def test_what_works_on_ranks_is_refused(unchanged, binned, call, name):
    with pytest.raises(gf.DataError, match=rf"{name} works on the order .*'value-binned'.*"):
        call(unchanged, binned)


def test_two_time_points_are_refused(adata, binned):
    adata.layers["before"] = adata.X.copy()
    with pytest.raises(gf.DataError, match="'value-binned', and two time points are both encoded by rank"):
        gf.tl.tokenize(adata, binned, previous_layer="before")


def test_a_saved_model_reads_the_same(adata, tmp_path):
    vocabulary = replace(make_vocabulary(special=True, input_size=44), encoding=ValueBinned(9))
    model = make_binned(vocabulary)
    again = gf.models.load(gf.models.save(model, tmp_path / "m"), device="cpu")
    assert again.vocabulary.encoding == ValueBinned(9)
    assert again.vocabulary.checksum == vocabulary.checksum
    np.testing.assert_allclose(embeddings(make_adata(), again), embeddings(make_adata(), model), atol=1e-6)


# --- tokens that tell the batch ---------------------------------------------------------------------------------------


@pytest.fixture
def told(adata):
    """A model that is told the donor and the condition of each cell, and data that have only donors."""
    statistics = gf.models.gene_statistics(adata)
    encoding = ValueBinned(9, context={"donor": ["a", "b"], "condition": ["healthy"]})
    return make_binned(gf.models.build_vocabulary(statistics, input_size=32, encoding=encoding))


def test_the_context_stands_behind_cls(adata, told, log):
    special = told.vocabulary.special
    assert list(special)[4:] == ["<donor:a>", "<donor:b>", "<condition:healthy>"]
    adata.obs["donor"] = pd.Categorical(["a", "b", "c", None] * 3)
    gf.tl.tokenize(adata, told)
    a, b, mask = special["<donor:a>"], special["<donor:b>"], special["<mask>"]
    lead = adata.obsm["geneformer_tokens"][:, :3].tolist()
    assert lead == [[special["<cls>"], donor, mask] for donor in [a, b, mask, mask] * 3]
    assert (adata.obsm["geneformer_bins"][:, :3] == 9).all()
    assert "adata.obs['donor'] holds 'c', which the model has not seen: taken as unknown" in log()
    assert "adata.obs has no column 'condition', which the model reads: taken as unknown for all cells" in log()


def test_the_context_changes_embeddings_and_stored_tokens_are_of_their_context(adata, told, log):
    gf.tl.tokenize(adata, told)
    one = embeddings(adata, told)
    adata.obs["donor"] = np.resize(["b", "a"], 12)
    other = embeddings(adata, told)
    assert "using the tokens stored" not in log().rpartition("embedding cells")[2]
    assert (np.abs(one - other).max(axis=1) > 1e-3).all()
    adata.obs["donor"] = np.resize(["a", "b"], 12)
    np.testing.assert_array_equal(embeddings(adata, told), one)


def test_the_context_goes_with_the_rows_of_dask_chunks(adata, told):
    import dask.array as da

    expected = embeddings(adata, told)
    adata.X = da.from_array(adata.X.toarray(), chunks=(5, -1))
    np.testing.assert_allclose(np.asarray(embeddings(adata, told)), expected, atol=1e-6)


def test_the_mean_leaves_the_context_out(adata, told):
    states = gf.tl.embed_cells(adata, told, layer=0, copy=True).obsm["X_geneformer"]
    gf.tl.tokenize(adata, told)
    n = adata.obs["geneformer_n_tokens"].iloc[0]
    ids, bins = (torch.from_numpy(adata.obsm[f"geneformer_{key}"][:1, :n].astype(int)) for key in ("tokens", "bins"))
    with torch.inference_mode():
        each = make_bert(told.vocabulary).embeddings(ids, position_ids=bins)[0]
    np.testing.assert_allclose(states[0], each[3:-1].mean(dim=0), atol=1e-5)


def test_pretraining_hides_the_context_now_and_then_and_keeps_it_in_the_vocabulary(adata, told, tmp_path):
    from scgeneformer._training.masked_values import MaskedValues

    vocabulary, rng = told.vocabulary, np.random.default_rng(0)
    tokens = np.array([vocabulary.special[name] for name in ("<cls>", "<donor:a>", "<condition:healthy>")] + [9, 10])
    cell = {"tokens": tokens, "positions": np.array([9, 9, 9, 3, 5], dtype=np.uint8)}
    seen = np.array([MaskedValues(vocabulary).hide(cell, rng)["tokens"] for _ in range(400)])
    assert (seen[:, [0, 3, 4]] == tokens[[0, 3, 4]]).all()
    assert 0.33 < (seen[:, 1] == vocabulary.special["<mask>"]).mean() < 0.47
    assert (cell["tokens"] == tokens).all()

    folder = gf.tl.pretrain(
        adata, vocabulary=vocabulary, config={"hidden_size": 16, "num_hidden_layers": 1}, epochs=1, out=tmp_path / "m"
    )
    again = gf.models.load(folder).vocabulary
    assert again.encoding == vocabulary.encoding
    assert again.checksum == vocabulary.checksum


@pytest.mark.parametrize("values", [[], "ab", ["a", "a"], ["1", 1]])
def test_a_context_lists_values(values):
    with pytest.raises(gf.ModelError, match=r"context={'batch': \.\.\.} must list the values of the column, each once"):
        ValueBinned(context={"batch": values})


def test_the_vocabulary_must_have_the_tokens_of_the_context():
    with pytest.raises(gf.ModelError, match="needs the special token <batch:a>"):
        replace(make_vocabulary(special=True), encoding=ValueBinned(9, context={"batch": ["a"]}))
