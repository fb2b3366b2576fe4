"""Results of counts in `adata.raw` go to the genes of `adata.var` that have the same name."""

from __future__ import annotations

import numpy as np
import pytest
from anndata.tests.helpers import assert_equal

import scgeneformer as gf
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._adata.var_tokens import tokens_of_var
from scgeneformer._errors import DataError


@pytest.mark.parametrize(
    "call",
    [
        lambda adata, toy: gf.pp.gene_medians(adata, use_raw=True),
        lambda adata, toy: gf.tl.embed_genes(adata, toy, use_raw=True),
        lambda adata, toy: gf.tl.attention(adata, toy, use_raw=True),
        lambda adata, toy: gf.tl.perturb(adata, model=toy, use_raw=True),
    ],
    ids=["gene_medians", "embed_genes", "attention", "perturb"],
)
def test_raw_with_names_of_another_kind_is_refused(adata, toy, call):
    adata.raw = adata.copy()
    adata.var_names = [f"gene {i}" for i in range(adata.n_vars)]
    before = adata.copy()
    text = r"No gene of adata.var \('gene 0', ...\) has a name that adata.raw has \('G0', ...\).*names of one kind"
    with pytest.raises(DataError, match=text):
        call(adata, toy)
    assert_equal(adata, before)


def test_cells_and_masked_genes_need_no_names_of_var():
    adata = gf.datasets.pbmc68k()[:6].copy()
    gf.tl.embed_cells(adata, "mini")
    expected = adata.obsm["X_geneformer"].copy()
    told = gf.tl.predict_masked_genes(adata, ["CD3D", "LYZ"], "mini")
    adata.raw = adata.copy()
    adata.var_names = [f"gene {i}" for i in range(adata.n_vars)]
    gf.tl.embed_cells(adata, "mini", use_raw=True)
    np.testing.assert_array_equal(adata.obsm["X_geneformer"], expected)
    assert len(told)
    assert gf.tl.predict_masked_genes(adata, ["CD3D", "LYZ"], "mini", use_raw=True).equals(told)


def test_of_two_columns_of_one_name_the_first_that_the_model_knows_counts(adata, toy):
    known = open_tokens(adata, toy.vocabulary).genes.tokens
    gene = int(np.flatnonzero(known >= 0)[-1])
    raw = adata.copy()
    raw.var["ensembl_id"] = ["ENSG99999999999", *raw.var["ensembl_id"][1:]]
    raw.var_names = [adata.var_names[gene], *adata.var_names[1:]]
    adata.raw = raw
    found = tokens_of_var(open_tokens(adata, toy.vocabulary, use_raw=True))
    assert found[gene] == known[gene]
    assert found[0] == -1
