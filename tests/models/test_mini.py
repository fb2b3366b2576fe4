"""The checkpoint inside the package, on real cells that ship with scanpy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

import scgeneformer as gf
from scgeneformer._demo import neighbour_agreement
from scgeneformer._engine.encoder import use_own_kernels

FOLDER = Path(gf.models.__file__).parent / "mini"


@pytest.fixture(scope="module")
def cells():
    return gf.datasets.pbmc68k()[::2].copy()


@pytest.fixture(scope="module")
def embedded(cells):
    return gf.tl.embed_cells(cells, "mini", copy=True)


def test_it_is_small_and_knows_the_genome():
    vocabulary = gf.models.load_vocabulary("mini")
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12e6
    assert len(vocabulary.tokens) >= 12_000
    assert all(gene.startswith("ENSG") for gene in vocabulary.ensembl_ids)
    assert (vocabulary.symbols != "").mean() > 0.99
    assert vocabulary.token_of_name["GAPDH"] == vocabulary.token_of_id["ENSG00000111640"]


def test_it_says_how_it_was_made_and_was_not_trained_on_the_demo_cells():
    record = json.loads((FOLDER / "geneformer.json").read_text())["record"]
    assert isinstance(record["settings"]["seed"], int)
    assert record["steps"] > 0
    assert {source["licence_of_source"] for source in record["data"]} <= {"MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0"}
    files = " ".join(source["file"] for source in record["data"])
    assert "pbmc3k" in files
    assert not any(name in files for name in ("pbmc68k", "kang18", "ipsc", "donorA", "hao", "mouse"))
    card = (FOLDER / "README.md").read_text()
    assert "demonstration" in card
    assert "PCA" in card
    assert "untrained" in card


def test_the_stock_transformers_loader_gives_the_same_embeddings(cells, embedded):
    stock = BertModel.from_pretrained(FOLDER, add_pooling_layer=False, dtype=torch.float32).eval()
    few = gf.tl.tokenize(cells[:6].copy(), "mini", copy=True)
    for i, row in enumerate(few.obsm["geneformer_tokens"].astype(np.int64)):
        with torch.no_grad():
            states = stock(torch.tensor(row[row > 0][None]), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(embedded.obsm["X_geneformer"][i], states[-2][0].mean(dim=0), atol=1e-5)


def test_neighbours_share_their_cell_type_more_than_in_an_untrained_model(cells, embedded):
    """The trained weights, not the architecture and not the encoding, must carry the cell types."""
    labels = cells.obs["cell_type"].to_numpy()
    mini = gf.models.load("mini", device="cpu", dtype="float32")
    torch.manual_seed(0)
    untrained = use_own_kernels(BertModel(mini.bert.config, add_pooling_layer=False).eval())
    blank = gf.models.Model("blank", "", "", "", mini.vocabulary, untrained, mini.device, mini.dtype, mini.folder)
    other = gf.tl.embed_cells(cells, blank, copy=True)
    trained = neighbour_agreement(embedded.obsm["X_geneformer"], labels)
    assert trained > neighbour_agreement(other.obsm["X_geneformer"], labels) + 0.05
    assert trained > neighbour_agreement(cells.obsm["X_pca"], labels) - 0.05


def test_a_second_call_loads_nothing(cells):
    from scgeneformer.models import _weights

    gf.tl.embed_cells(cells[:5].copy(), "mini")
    before = _weights.READS
    gf.tl.embed_cells(cells[5:9].copy(), "mini")
    gf.tl.embed_cells(cells[5:9].copy(), "mini", layer=1)
    assert before == _weights.READS


def test_half_precision_points_the_same_way(cells, embedded):
    few = gf.tl.embed_cells(cells[:20].copy(), "mini", dtype="bfloat16", copy=True).obsm["X_geneformer"]
    full = embedded.obsm["X_geneformer"][:20]
    cosine = (few * full).sum(axis=1) / np.linalg.norm(few, axis=1) / np.linalg.norm(full, axis=1)
    assert cosine.min() > 0.9999
