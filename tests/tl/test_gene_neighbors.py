import numpy as np
import pandas as pd
import pytest
from toys import make_adata

import scgeneformer as gf


@pytest.fixture
def adata():
    adata = make_adata()
    rng = np.random.default_rng(0)
    adata.varm["geneformer"] = rng.normal(size=(40, 6)).astype(np.float32)
    adata.varm["geneformer"][[3, 7]] = np.nan
    adata.varm["geneformer_cell_type"] = rng.normal(size=(40, 2, 6)).astype(np.float32)
    adata.uns["geneformer_cell_type"] = {"groups": np.array(["B", "CD4+/CD25 T Reg"], dtype=object)}
    return adata


def by_hand(adata, vectors, gene):
    """Names by cosine, largest first, the gene itself and those without embedding left out."""
    x = vectors[adata.var_names.get_loc(gene)].astype(float)
    cosine = vectors.astype(float) @ x / np.linalg.norm(vectors.astype(float), axis=1) / np.linalg.norm(x)
    cosine[adata.var_names.get_loc(gene)] = np.nan
    order = [i for i in np.argsort(-cosine) if np.isfinite(cosine[i])]
    return adata.var_names[order].tolist(), cosine[order]


@pytest.mark.parametrize("block", [1, 100, 2**23])
def test_neighbors_equal_brute_force_whatever_the_blocks(adata, monkeypatch, block):
    monkeypatch.setattr("scgeneformer._engine.statistics.neighbors.BLOCK", block)
    found = gf.tl.gene_neighbors(adata, n_neighbors=5)
    assert found.columns.tolist() == ["gene", "neighbor", "rank", "similarity"]
    assert len(found) == 38 * 5
    assert not {"G3", "G7"} & (set(found["gene"]) | set(found["neighbor"]))
    for gene, one in found.groupby("gene"):
        names, cosine = by_hand(adata, adata.varm["geneformer"], gene)
        assert one["neighbor"].tolist() == names[:5]
        np.testing.assert_allclose(one["similarity"], cosine[:5], atol=1e-6)
        assert one["rank"].tolist() == [1, 2, 3, 4, 5]


def test_genes_are_answered_in_the_order_asked(adata):
    found = gf.tl.gene_neighbors(adata, genes=["G9", "G1"], n_neighbors=2)
    assert found["gene"].tolist() == ["G9", "G9", "G1", "G1"]
    pd.testing.assert_frame_equal(gf.tl.gene_neighbors(adata, genes="G9", n_neighbors=2), found.head(2))


def test_genes_that_are_missing_are_listed_and_left_out(adata, log):
    found = gf.tl.gene_neighbors(adata, genes=["nope", "G9", "G3"], n_neighbors=2)
    assert found["gene"].tolist() == ["G9", "G9"]
    assert "2 of 3 genes are left out (not in adata.var: 'nope'; without embedding" in log()


def test_genes_are_found_in_any_case_and_by_their_ids(adata):
    adata.var_names = ["g1" if name == "G2" else name for name in adata.var_names]
    found = gf.tl.gene_neighbors(adata, genes=["g9", "ensg00000000005.2", "g1", "G9"], n_neighbors=1)
    assert found["gene"].tolist() == ["G9", "G5", "g1"]  # each once, and what is named exactly goes first
    assert gf.tl.gene_neighbors(adata, genes="G1", n_neighbors=1)["gene"].tolist() == ["G1"]


def test_a_group_has_neighbors_of_its_own(adata):
    found = gf.tl.gene_neighbors(adata, "geneformer_cell_type", group="CD4+/CD25 T Reg", genes="G0", n_neighbors=3)
    assert found["neighbor"].tolist() == by_hand(adata, adata.varm["geneformer_cell_type"][:, 1], "G0")[0][:3]


def test_more_neighbors_than_genes_are_all_genes(adata):
    assert len(gf.tl.gene_neighbors(adata, genes="G0", n_neighbors=1000)) == 37


def test_a_single_gene_has_no_neighbors(adata):
    adata.varm["geneformer"][1:] = np.nan
    assert gf.tl.gene_neighbors(adata).empty


def test_equal_embeddings_come_in_the_order_of_var(adata):
    adata.varm["geneformer"][:] = 1
    assert gf.tl.gene_neighbors(adata, genes="G5", n_neighbors=39)["neighbor"].tolist() == [
        f"G{i}" for i in range(40) if i != 5
    ]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"key": "nope"}, r"varm\['nope'\] does not exist; the keys are: 'geneformer', .*gf\.tl\.embed_genes"),
        ({"key": ["G1"]}, r"varm\[\['G1'\]\] does not exist; .* the genes asked for are named by genes="),
        ({"group": "B"}, "one embedding per gene"),
        (
            {"key": "geneformer_cell_type"},
            r"of which one is meant: group='...'; the groups are: 'B', 'CD4\+/CD25 T Reg'",
        ),
        ({"key": "geneformer_cell_type", "group": "T"}, "has no group 'T'"),
        ({"genes": ["nope"]}, "None of the genes can be used .not in adata.var: 'nope'"),
        ({"genes": ["G3", "nope"]}, "not in adata.var: 'nope'; without embedding .*: 'G3'"),
        ({"n_neighbors": None}, "n_neighbors=None must be a whole number"),
        ({"n_neighbors": 0}, "at least 1"),
    ],
    ids=str,
)
def test_bad_input_is_refused(adata, bad, text):
    with pytest.raises(gf.DataError, match=text):
        gf.tl.gene_neighbors(adata, **bad)


def test_no_embedding_at_all_is_refused(adata):
    adata.varm["geneformer"][:] = np.nan
    with pytest.raises(gf.DataError, match="No gene has an embedding"):
        gf.tl.gene_neighbors(adata)
