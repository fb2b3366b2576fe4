"""Which bins are masked, and that the packed loss is that of the stock model, one cell at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fine_tuned import make_cells
from torch.nn.functional import cross_entropy
from toys import make_adata, make_bert, make_vocabulary

import scgeneformer as gf
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._errors import ModelError
from scgeneformer._training.dataset import IGNORED, TokenDataset, collate
from scgeneformer._training.masked_genes import MaskedDataset, unigram_loss
from scgeneformer._training.masked_values import MaskedValues
from scgeneformer._training.objectives import find_objective
from scgeneformer._training.recipe import Recipe
from scgeneformer._training.run import Run

VOCABULARY = replace(make_vocabulary(special=True, input_size=44), encoding=gf.models.ValueBinned(9))
QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture
def cells():
    return MaskedDataset.of(make_cells(VOCABULARY), MaskedValues(VOCABULARY), 0)


def test_masked_genes_keep_their_token_and_lose_their_bin(cells):
    plain = make_cells(VOCABULARY)
    for i in range(len(cells)):
        before, after = plain[i], cells[i]
        np.testing.assert_array_equal(after["tokens"], before["tokens"])
        masked = after["positions"] == 10
        n_genes = len(before["tokens"]) - 2
        assert masked.sum() == max(1, round(0.4 * n_genes))
        assert not masked[[0, -1]].any()
        np.testing.assert_array_equal(after["positions"][~masked], before["positions"][~masked])
        np.testing.assert_array_equal(after["token_labels"], np.where(masked, before["positions"].astype(int), IGNORED))


def test_masks_are_others_in_each_epoch_and_the_same_when_asked_again(cells):
    first = [cells[i]["positions"].tolist() for i in range(len(cells))]
    assert [cells[i]["positions"].tolist() for i in range(len(cells))] == first
    cells.begin_epoch(1)
    assert [cells[i]["positions"].tolist() for i in range(len(cells))] != first


def test_the_loss_is_that_of_the_stock_model(cells):
    bert = use_own_kernels(make_bert(VOCABULARY))
    task = MaskedValues(VOCABULARY)
    recipe = Recipe(dropout=0.0)
    network = Run(bert, recipe, task, VOCABULARY.n_tokens, 0, torch.device("cpu"), None, {}).network().eval()
    batch = [cells[i] for i in range(len(cells))]
    loss = network(**collate(batch))["loss"]
    stock, losses = make_bert(VOCABULARY), []
    with torch.no_grad():
        for cell in batch:
            ids, bins = (torch.from_numpy(cell[name].astype(np.int64))[None] for name in ("tokens", "positions"))
            states = stock(ids, position_ids=bins).last_hidden_state[0]
            labels = torch.from_numpy(cell["token_labels"])
            losses.append(cross_entropy(network.head(states), labels, ignore_index=IGNORED, reduction="sum"))
    n_masked = sum((cell["token_labels"] != IGNORED).sum() for cell in batch)
    assert loss.item() == pytest.approx(float(sum(losses) / n_masked), abs=1e-5)


def test_frequencies_by_hand():
    vocabulary = replace(make_vocabulary(3), encoding=gf.models.ValueBinned(3))
    cells = TokenDataset(
        np.array([2, 3, 2]), np.array([0, 2, 3]), np.empty((2, 0), np.int64), np.array([2, 1, 2], dtype=np.uint8)
    )
    objective = MaskedValues(vocabulary)
    np.testing.assert_array_equal(objective.frequencies(cells), [1, 2, 3])
    held = TokenDataset(np.array([2]), np.array([0, 1]), np.empty((1, 0), np.int64), np.array([1], dtype=np.uint8))
    alone = unigram_loss(objective.frequencies(cells), MaskedDataset.of(held, objective, 0))
    assert alone == pytest.approx(-np.log(2 / 6))


def test_special_tokens_are_in_no_frequency(cells):
    whole = make_cells(VOCABULARY)
    n_genes = len(whole.ids) - 2 * len(whole)
    assert MaskedValues(VOCABULARY).frequencies(whole).sum() == n_genes + 9


def test_no_token_to_mask_with_is_needed():
    vocabulary = replace(VOCABULARY, special={"<pad>": 0})
    assert isinstance(find_objective(vocabulary), MaskedValues)
    with pytest.raises(ModelError, match="no token <pad>"):
        find_objective(replace(vocabulary, special={}))


def test_both_encodings_are_pretrained_on_the_same_cells(tmp_path):
    """From scratch, then on from the trained model, whose head is taken up."""
    adata = make_adata(40)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    statistics = gf.models.gene_statistics(adata)
    for encoding in (None, gf.models.ValueBinned(9)):
        vocabulary = gf.models.build_vocabulary(statistics, input_size=44, encoding=encoding)
        out = tmp_path / vocabulary.encoding.name
        trained = gf.tl.pretrain(adata, vocabulary=vocabulary, config=small, out=out, **QUICK)
        found = trained.metrics["metrics"]["validation"]
        assert 0 < found["loss"] < 1.5 * np.log(vocabulary.n_tokens)
    model = gf.models.load(out, device="cpu")
    assert model.vocabulary.encoding == gf.models.ValueBinned(9)
    assert model.bert.config.max_position_embeddings == 11
    gf.tl.embed_cells(adata, model)
    assert np.isfinite(adata.obsm["X_geneformer"]).all()
    on = gf.tl.pretrain(adata, model, out=tmp_path / "on", **{**QUICK, "learning_rate": 1e-9})
    again = on.metrics["metrics"]["validation"]["loss"]
    assert again == pytest.approx(found["loss"], abs=1e-4)  # same cells, same masks, same head


def test_what_cannot_be_mixed_is_refused(tmp_path):
    adata = make_adata(24)
    binned = gf.models.build_vocabulary(gf.models.gene_statistics(adata), encoding=gf.models.ValueBinned())
    with pytest.raises(
        ModelError, match=r"positions are bins, and those that mini learned are ranks.*leave model= out"
    ):
        gf.tl.pretrain(adata, "mini", vocabulary=binned, out=tmp_path / "m", **QUICK)
    with pytest.raises(gf.DataError, match="'value-binned' needs 53 positions, and the model has 30"):
        gf.tl.pretrain(adata, vocabulary=binned, config={"max_position_embeddings": 30}, out=tmp_path / "m", **QUICK)
    assert not (tmp_path / "m").exists()
