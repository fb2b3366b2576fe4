import json

import anndata as ad
import numpy as np
import pytest
import torch
from anndata.tests.helpers import assert_equal
from safetensors.torch import save_file
from toys import clear_cells, make_adata, make_bert, make_vocabulary

import scgeneformer as gf
from scgeneformer._engine import masked
from scgeneformer._engine.masks import random_subsets
from scgeneformer._engine.tokens import Tokens
from scgeneformer._engine.vocabulary import write_vocabulary
from scgeneformer.models import _weights

SCORE = "geneformer_log_likelihood"
TIED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


def make_stock(vocabulary, **config):
    """Random stock `BertForMaskedLM`, its head jittered like the rest."""
    from transformers import BertForMaskedLM

    settings = make_bert(vocabulary, n_blocks=2).config
    settings.update(config)
    torch.manual_seed(1)
    stock = BertForMaskedLM(settings).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return stock


def save(stock, vocabulary, folder, leave_out=TIED):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(stock.config.to_dict()))
    tensors = {k: t.clone() for k, t in stock.state_dict().items() if not k.startswith(tuple(leave_out))}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_vocabulary(vocabulary, folder)
    return folder


@pytest.fixture
def stock(vocabulary):
    return make_stock(vocabulary)


@pytest.fixture
def checkpoint(stock, vocabulary, tmp_path):
    return save(stock, vocabulary, tmp_path / "model")


@pytest.fixture
def loaded(checkpoint):
    return gf.models.load(checkpoint)


def cells_of(adata, model):
    padded = gf.tl.tokenize(adata, model, copy=True).obsm["geneformer_tokens"]
    return Tokens.from_padded(padded)


def log_probabilities(stock, ids, chosen):
    """Of all tokens at the masked positions of one cell, (m, n_tokens)."""
    with torch.no_grad():
        logits = stock(torch.tensor(np.where(chosen, 1, ids)[None].astype(np.int64))).logits[0]
    return logits[chosen].double().log_softmax(dim=-1).numpy()


@pytest.mark.parametrize(("fraction", "n_passes"), [(0.15, None), (0.4, 1), (1.0, None)])
def test_scores_are_those_of_the_stock_model(adata, stock, loaded, vocabulary, fraction, n_passes):
    clear_cells(adata, 3)
    gf.tl.score_masked_genes(adata, loaded, fraction=fraction, n_passes=n_passes, seed=5)
    cells, n_subsets = cells_of(adata, loaded), int(np.ceil(1 / fraction))
    subsets = random_subsets(cells, n_subsets, 5, vocabulary)
    expected = np.full(12, np.nan)
    for i in set(range(12)) - {3}:
        ids, subset = cells[i], subsets[cells.offsets[i] : cells.offsets[i + 1]]
        found = []
        for number in range(n_passes or n_subsets):
            if (chosen := subset == number).any():
                found.extend(log_probabilities(stock, ids, chosen)[np.arange(chosen.sum()), ids[chosen]])
        expected[i] = np.mean(found)
        assert n_passes or len(found) == len(ids) - vocabulary.n_lead - vocabulary.n_trail
    np.testing.assert_allclose(adata.obs[SCORE], expected, atol=1e-5)
    np.testing.assert_allclose(adata.obs["geneformer_pseudo_perplexity"], np.exp(-expected), rtol=1e-5)
    assert adata.obs[SCORE].dtype == np.float32


def test_subsets_are_disjoint_even_and_of_genes_only(vocabulary):
    rng = np.random.default_rng(0)
    lead, trail = [2] * vocabulary.n_lead, [3] * vocabulary.n_trail
    sizes = [1, 3, 14, 0, 10]
    cells = Tokens.from_lists([[*lead, *rng.choice(vocabulary.tokens, n, replace=False), *trail] for n in sizes])
    subsets = random_subsets(cells, 3, 0, vocabulary)
    for i, n in enumerate(sizes):
        of_cell = subsets[cells.offsets[i] : cells.offsets[i + 1]]
        np.testing.assert_array_equal(of_cell < 0, ~np.isin(cells[i], vocabulary.tokens))
        counts = np.bincount(of_cell[of_cell >= 0], minlength=3)
        assert counts.sum() == n
        assert np.ptp(counts) <= 1
    assert (random_subsets(cells, 3, 1, vocabulary) != subsets).any()


def test_a_cell_has_the_same_subsets_in_any_company(vocabulary):
    rng = np.random.default_rng(0)
    cells = Tokens.from_lists([rng.choice(vocabulary.tokens, n, replace=False) for n in (5, 12, 8)])
    together = random_subsets(cells, 4, 0, vocabulary)
    alone = [random_subsets(cells.take(np.array([i])), 4, 0, vocabulary) for i in (0, 1, 2)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("tokens_per_batch", [1, 50, 100_000])
def test_scores_do_not_depend_on_batches_order_and_devices(adata, loaded, tokens_per_batch, monkeypatch):
    one = gf.tl.score_masked_genes(adata, loaded, copy=True).obs[SCORE]
    monkeypatch.setattr(masked, "LOGITS_AT_ONCE", 1)
    order = np.random.default_rng(0).permutation(12)
    other = gf.tl.score_masked_genes(
        adata[order].copy(), loaded, tokens_per_batch=tokens_per_batch, device=["cpu", "cpu"], copy=True
    ).obs[SCORE]
    np.testing.assert_allclose(other, one.iloc[order], atol=1e-5)


def test_predictions_are_those_of_the_stock_model(adata, stock, loaded, vocabulary):
    found = gf.tl.predict_masked_genes(adata, ["G7", "G2"], loaded, n_genes=4)
    cells, genes = cells_of(adata, loaded), vocabulary.tokens
    seen = 0
    for i, ids in enumerate(cells[i] for i in range(12)):
        for gene in (2, 7):
            rows = found[(found["cell"] == f"cell{i}") & (found["gene"] == f"G{gene}")]
            chosen = ids == genes[gene]
            assert len(rows) == 4 * chosen.any()
            if not chosen.any():
                continue
            seen += 1
            p = np.exp(log_probabilities(stock, ids, chosen)[0])[genes]
            top = np.argsort(-p)[:4]
            assert rows["predicted"].tolist() == [f"G{g}" for g in top]
            np.testing.assert_allclose(rows["probability"], p[top], rtol=1e-4)
            np.testing.assert_allclose(rows["true_probability"], p[gene], rtol=1e-4)
            assert set(rows["true_rank"]) == {1 + (p > p[gene]).sum()}
            assert set(rows["position"]) == {np.flatnonzero(chosen)[0] - vocabulary.n_lead}
            assert rows["rank"].tolist() == [1, 2, 3, 4]
    assert seen == len(found) / 4 > 2
    positions = found.drop_duplicates(["cell", "gene"]).groupby("cell", sort=False)["position"]
    assert positions.is_monotonic_increasing.all()


def test_predictions_do_not_depend_on_batches_and_devices(adata, loaded):
    one = gf.tl.predict_masked_genes(adata, ["G1", "G2", "G3"], loaded, n_genes=100)
    two = gf.tl.predict_masked_genes(
        adata, ["G3", "G2", "G1"], loaded, n_genes=100, tokens_per_batch=1, device=["cpu", "cpu"]
    )
    assert one["rank"].max() == 40
    names = ["cell", "gene", "position", "true_rank", "rank"]
    assert one[names].equals(two[names])
    np.testing.assert_allclose(one["probability"], two["probability"], atol=1e-5)


def test_the_cells_foreseen_are_the_masked_copies_that_are_run(adata, loaded, log):
    gf.tl.score_masked_genes(adata, loaded, n_passes=3)
    assert "    36 cells with" in log()
    found = gf.tl.predict_masked_genes(adata, ["G1", "G2"], loaded, n_genes=1)
    assert f"    {len(found)} cells with" in log()


def test_genes_are_named_as_in_the_data_and_missing_ones_are_left_out(adata, loaded, log):
    adata = adata[:, :30].copy()
    adata.var_names = [f"mine{i}" for i in range(30)]
    found = gf.tl.predict_masked_genes(adata, ["mine2", "G35", "nope"], loaded, n_genes=40)
    assert set(found["gene"]) == {"mine2"}
    assert set(found["predicted"]) == {*adata.var_names, *(f"G{i}" for i in range(30, 40))}
    assert "G35" in log()
    assert "nope" in log()


def test_a_gene_in_no_cell_gives_an_empty_table(adata, loaded):
    adata.X = adata.X * 0
    found = gf.tl.predict_masked_genes(adata, "G1", loaded)
    assert len(found) == 0
    assert found.columns.tolist()[:2] == ["cell", "gene"]


def test_the_head_is_read_once_and_only_when_asked_for(adata, checkpoint):
    path = str((checkpoint / "model.safetensors").resolve())
    gf.tl.embed_cells(adata, checkpoint)
    assert _weights.READS[path] == 1
    gf.tl.score_masked_genes(adata, checkpoint, n_passes=1)
    gf.tl.predict_masked_genes(adata, "G1", checkpoint)
    assert _weights.READS[path] == 2


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_may_be_tied_or_not(adata, vocabulary, tmp_path, tied):
    stock = make_stock(vocabulary, tie_word_embeddings=tied)
    folder = save(stock, vocabulary, tmp_path / "other", ["cls.predictions.bias"] if tied else ["nothing"])
    found = gf.tl.predict_masked_genes(adata, "G7", folder, n_genes=1)
    cells = cells_of(adata, gf.models.load(folder))
    row = int(found["cell"].iloc[0].removeprefix("cell"))
    expected = np.exp(log_probabilities(stock, cells[row], cells[row] == vocabulary.tokens[7])[0])
    np.testing.assert_allclose(found["true_probability"].iloc[0], expected[vocabulary.tokens[7]], rtol=1e-4)


def test_half_precision_is_close(adata, checkpoint):
    one, two = (gf.tl.score_masked_genes(adata, checkpoint, dtype=d, copy=True) for d in ("float32", "bfloat16"))
    np.testing.assert_allclose(one.obs[SCORE], two.obs[SCORE], atol=0.1)


def test_models_without_a_head_are_refused(unchanged, toy, stock, vocabulary, tmp_path):
    with pytest.raises(gf.ModelError, match="built in memory"):
        gf.tl.score_masked_genes(unchanged, toy)
    folder = save(stock, vocabulary, tmp_path / "headless", ["cls."])
    with pytest.raises(gf.ModelError, match=r"cls\.predictions\.transform\.dense\.weight is missing"):
        gf.tl.predict_masked_genes(unchanged, "G1", folder)


def test_a_head_of_another_width_or_a_changed_file_is_refused(unchanged, loaded, stock, vocabulary, tmp_path):
    other = save(stock, vocabulary, tmp_path / "wide")
    tensors = _weights.read_tensors(other / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["cls.predictions.bias"] = torch.zeros(3)
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(gf.ModelError, match="bias is \\(3,\\)"):
        gf.tl.score_masked_genes(unchanged, other)
    save_file(tensors, loaded.files.weights)
    with pytest.raises(gf.ModelError, match="has changed"):
        gf.tl.score_masked_genes(unchanged, loaded)


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_results_survive_files(adata, loaded, tmp_path, how):
    gf.tl.score_masked_genes(adata, loaded, n_passes=2)
    gf.tl.score_masked_genes(adata, loaded, n_passes=1, key_added="mine")
    assert {SCORE, "mine_log_likelihood", "mine_pseudo_perplexity"} <= set(adata.obs)
    assert adata.uns["mine_log_likelihood"]["params"]["n_passes"] == 1
    path = tmp_path / f"a.{how}"
    getattr(adata, f"write_{how}")(path)
    assert_equal(getattr(ad, f"read_{how}")(path), adata)


def test_a_copy_and_predictions_leave_the_original_alone(unchanged, loaded):
    assert SCORE in gf.tl.score_masked_genes(unchanged, loaded, n_passes=1, copy=True).obs
    gf.tl.predict_masked_genes(unchanged, "G1", loaded)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"fraction": 0}, "fraction=0"),
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"fraction": "some"}, "fraction='some'"),
        ({"n_passes": 8}, "from 1 to 7"),
        ({"n_passes": 0}, "from 1 to 7"),
        ({"seed": -1}, "seed=-1"),
        ({"counts_layer": "nope"}, "the layers are: none"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused_and_nothing_is_written(unchanged, loaded, bad, text):
    with pytest.raises(gf.DataError, match=text):
        gf.tl.score_masked_genes(unchanged, loaded, **bad)


@pytest.mark.parametrize(
    ("bad", "text"),
    [({"genes": ["nope"]}, "'nope'"), ({"genes": "G1", "n_genes": 0}, "n_genes=0")],
    ids=str,
)
def test_bad_genes_are_refused(unchanged, loaded, bad, text):
    with pytest.raises(gf.DataError, match=text):
        gf.tl.predict_masked_genes(unchanged, **({"genes": "G1", "model": loaded} | bad))


def test_a_vocabulary_without_mask_is_refused(stock, tmp_path):
    from dataclasses import replace

    vocabulary = replace(make_vocabulary(), special={"<pad>": 0})
    folder = save(make_stock(make_vocabulary()), vocabulary, tmp_path / "maskless")
    with pytest.raises(gf.ModelError, match="no token <mask>"):
        gf.tl.score_masked_genes(make_adata(), folder)
