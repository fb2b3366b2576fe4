"""Numbers of the reference Geneformer on real cells, with its real dictionaries and seeded checkpoints."""

import anndata as ad
import numpy as np
import pytest

import scgeneformer as gf

RELEASES = ("V1", "V2")
FILES = ("pbmc3k_48cells", "lung_6cells")  # the second holds cells that are cut at 2048 and at 4096


@pytest.fixture(params=RELEASES)
def release(request):
    return request.param


@pytest.fixture(params=FILES)
def name(request):
    return request.param


only = pytest.mark.parametrize  # narrows one of the fixtures above


@pytest.fixture
def model(shared, release):
    folder = shared / "goldens" / "checkpoints" / f"{release.lower()}_small"
    return gf.models.load(folder, dictionaries=shared / "dictionaries" / release, device="cpu")


@pytest.fixture
def adata(shared, name):
    return ad.read_h5ad(shared / "goldens" / f"{name}.h5ad")


@pytest.fixture
def golden(shared, name, release):
    with np.load(shared / "goldens" / f"{name}_{release}.npz") as stored:
        return dict(stored)


def test_tokens_equal_those_of_the_reference(adata, model, golden):
    gf.tl.tokenize(adata, model)
    offsets = golden["token_offsets"]
    padded = adata.obsm["geneformer_tokens"]
    np.testing.assert_array_equal(adata.obs["geneformer_n_tokens"], np.diff(offsets))
    np.testing.assert_array_equal(padded[padded != 0], golden["tokens"])


@only("name", ["lung_6cells"], indirect=True)
def test_the_long_cells_are_really_cut(adata, model, golden):
    gf.tl.tokenize(adata, model)
    np.testing.assert_array_equal(adata.obs["geneformer_n_genes"], golden["n_genes_before_truncation"])
    assert (adata.obs["geneformer_n_tokens"] == model.vocabulary.input_size).any()


def check(adata, model, golden, pooling, kind):
    gf.tl.embed_cells(adata, model, layer=[-2, -1], pooling=pooling)
    for layer, which in ((model.n_blocks - 1, "second_to_last"), (model.n_blocks, "last")):
        np.testing.assert_allclose(adata.obsm[f"X_geneformer_L{layer}"], golden[f"{kind}_{which}"], atol=5e-6)


def test_cell_embeddings_of_both_last_layers_equal_those_of_the_reference(adata, model, golden):
    check(adata, model, golden, "mean", "cell")


@only("release", ["V2"], indirect=True)
def test_cls_embeddings_of_both_last_layers_equal_those_of_the_reference(adata, model, golden):
    check(adata, model, golden, "cls", "cls")
