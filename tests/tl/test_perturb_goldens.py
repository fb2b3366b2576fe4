"""Shifts of the reference Geneformer on real cells, with its real dictionaries and seeded checkpoints."""

import anndata as ad
import numpy as np
import pytest

import scgeneformer as gf

CD74, NKG7 = "ENSG00000019582", "ENSG00000105374"
TOLERANCE = 1e-6  # of the reference's float32 similarities; shifts are up to 0.1


@pytest.fixture(params=["V1", "V2"])
def release(request):
    return request.param


@pytest.fixture
def model(shared, release):
    folder = shared / "goldens" / "checkpoints" / f"{release.lower()}_small"
    return gf.models.load(folder, dictionaries=shared / "dictionaries" / release, device="cpu")


@pytest.fixture
def adata(shared):
    return ad.read_h5ad(shared / "goldens" / "pbmc3k_48cells.h5ad")


@pytest.fixture
def golden(shared, release):
    with np.load(shared / "goldens" / f"pbmc3k_48cells_{release}.npz") as stored:
        return dict(stored)


def column(adata, key, gene):
    """Shifts of one gene, NaN where there is no entry."""
    layer = adata.layers[key]
    at = int(np.flatnonzero(adata.var["ensembl_id"] == gene)[0])
    there = layer.copy()
    there.data[:] = 1
    values = layer[:, at].toarray().ravel()
    values[there[:, at].toarray().ravel() == 0] = np.nan
    return values


def test_deletions_equal_those_of_the_reference(adata, model, golden):
    gf.tl.perturb(adata, [CD74, (CD74, NKG7)], model=model)
    np.testing.assert_allclose(column(adata, "geneformer_delete", CD74), golden["delete_CD74"], atol=TOLERANCE)
    combined = adata.obsm["geneformer_delete"][:, 0]
    np.testing.assert_allclose(combined, golden["delete_CD74_NKG7"], atol=TOLERANCE)


def test_overexpression_equals_that_of_the_reference(adata, model, golden):
    gf.tl.perturb(adata, [CD74], "overexpress", model=model)
    expected = golden["overexpress_CD74"]
    compared = ~np.isnan(expected)
    found = column(adata, "geneformer_overexpress", CD74)
    np.testing.assert_allclose(found[compared], expected[compared], atol=TOLERANCE)
    assert not np.isnan(found).any()


def test_goal_state_shifts_equal_those_of_the_reference(adata, model, golden):
    goal = {"column": "disease", "start": "dcm", "goal": "nf", "alternatives": ["hcm"]}
    gf.tl.perturb(adata, [CD74], model=model, goal=goal)
    for state in ("dcm", "nf", "hcm"):
        found = column(adata, f"geneformer_delete_to_{state}", CD74)
        np.testing.assert_allclose(found, golden[f"delete_CD74_to_{state}"], atol=TOLERANCE)


def test_deleting_every_gene_of_a_cell_equals_the_reference(adata, model, golden):
    cells = [int(name.removeprefix("c")) for name in golden["delete_all_cells"]]
    some = adata[cells].copy()
    gf.pp.map_genes(some, model)  # former IDs of a gene have its token
    gf.tl.perturb(some, model=model)
    of_id = model.vocabulary.token_of_id
    for i, row in enumerate(some.layers["geneformer_delete"]):
        found = dict(zip(some.var["geneformer_token"].to_numpy()[row.indices], row.data.tolist(), strict=True))
        tokens = [of_id[gene] for gene in golden[f"delete_all_{i}_genes"]]
        expected = dict(zip(tokens, golden[f"delete_all_{i}"], strict=True))
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([found[gene] for gene in expected], list(expected.values()), atol=TOLERANCE)
