import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from toys import make_adata, make_model

import scgeneformer as gf


def test_ids_and_tokens_are_written(adata, toy):
    del adata.var["ensembl_id"]
    adata.var_names = ["nothing", *adata.var_names[1:]]
    gf.pp.map_genes(adata, toy)
    assert adata.var["ensembl_id"].iloc[:3].tolist() == ["", "ENSG00000000001", "ENSG00000000002"]
    assert adata.var["geneformer_token"].iloc[:3].tolist() == [-1, 3, 4]
    assert adata.var["geneformer_token"].dtype == np.int32


def test_an_id_the_model_does_not_know_is_kept(adata, toy):
    adata.var["ensembl_id"] = ["ENSG99999999999", *adata.var["ensembl_id"].iloc[1:]]
    gf.pp.map_genes(adata, toy)
    assert adata.var["ensembl_id"].iloc[0] == "ENSG99999999999"
    assert adata.var["geneformer_token"].iloc[0] == -1


def test_genes_without_an_id_get_that_of_their_symbol_and_this_is_said(adata, toy, log):
    ids = adata.var["ensembl_id"].tolist()
    adata.var["ensembl_id"] = ["", *ids[1:]]
    gf.pp.map_genes(adata, toy)
    assert adata.var["ensembl_id"].tolist() == ids
    assert "(by ensembl_id, 1 of them by other columns; 0 of them" in log()


def test_a_repeated_call_gives_the_same(adata, toy):
    gf.pp.map_genes(adata, toy)
    once = adata.copy()
    gf.pp.map_genes(adata, toy)
    assert_equal(adata, once)


def test_genes_and_counts_that_matched_are_said(log, toy):
    adata = make_adata(2, 40)
    dense = np.zeros((2, 40))
    dense[:, 0], dense[:, 1] = 1, 3
    adata.X = dense
    adata.var["ensembl_id"] = ["ENSG99999999999", *adata.var["ensembl_id"].iloc[1:]]
    gf.pp.map_genes(adata, toy)
    assert "39 of 40 genes, with 75.0% of the counts" in log()
    adata.layers["other"] = dense * [[100, *[1] * 39]]
    adata.raw = adata
    some = adata[:, 1:].copy()
    gf.pp.map_genes(adata, toy, counts_layer="other")
    assert "39 of 40 genes, with 2.9% of the counts" in log()
    gf.pp.map_genes(some, toy, use_raw=True)
    assert "39 of 39 genes, with 75.0% of the counts" in log()


def test_the_mapping_is_what_the_other_functions_use(adata, toy):
    direct = gf.tl.tokenize(adata, toy, copy=True).obsm["geneformer_tokens"]
    adata.var_names = [f"x{i}" for i in range(40)]
    gf.pp.map_genes(adata, toy)
    gf.tl.tokenize(adata, toy)
    np.testing.assert_array_equal(adata.obsm["geneformer_tokens"], direct)


def test_a_copy_leaves_the_original_alone(unchanged, toy):
    assert "geneformer_token" in gf.pp.map_genes(unchanged, toy, copy=True).var


def test_scaled_data_and_unknown_genes_are_refused_and_nothing_is_written(adata, toy):
    adata.X = adata.X.toarray() - 1
    adata.var = adata.var.set_index(adata.var_names.str.lower() + "?")
    del adata.var["ensembl_id"]
    before = adata.copy()
    with pytest.raises(gf.DataError, match="Only 0 of 40 genes"):
        gf.pp.map_genes(adata, toy)
    adata.var_names = before.var_names = [f"G{i}" for i in range(40)]
    with pytest.raises(gf.DataError, match="scaled"):
        gf.pp.map_genes(adata, toy)
    assert_equal(adata, before)


def test_models_of_other_vocabularies_give_other_tokens(adata):
    gf.pp.map_genes(adata, make_model(special=True))
    assert adata.var["geneformer_token"].iloc[0] == 4


def test_ids_the_data_give_are_kept_even_if_another_column_is_used(adata, toy):
    adata.var["ensembl_id"] = ["ENSG99999999999", *adata.var["ensembl_id"].iloc[1:]]
    adata.var_names = ["nothing", *adata.var_names[1:]]
    gf.pp.map_genes(adata, toy, gene_ids="var_names")
    assert adata.var["ensembl_id"].iloc[0] == "ENSG99999999999"
