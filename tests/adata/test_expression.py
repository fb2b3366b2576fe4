"""Principal components fitted on training cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.decomposition import PCA

from scgeneformer._adata import expression
from scgeneformer._adata.counts import open_counts
from scgeneformer._errors import DataError


@pytest.fixture
def counted():
    rng = np.random.default_rng(0)
    means = rng.gamma(1, 1, 300) * rng.gamma(3, 0.4, (90, 1))
    values = rng.negative_binomial(2, 2 / (2 + means)).astype(np.float32)
    values[5] = 0
    return ad.AnnData(sp.csr_matrix(values))


@pytest.mark.filterwarnings("ignore:Some cells have zero counts:UserWarning")
def test_components_are_those_of_scanpy_on_the_training_cells(counted, monkeypatch):
    monkeypatch.setattr(expression, "N_GENES", 80)
    train = np.arange(90) % 3 > 0
    found = expression.expression_pca(open_counts(counted), train, 6)
    naive = counted.copy()
    sc.pp.normalize_total(naive, target_sum=1e4)
    sc.pp.log1p(naive)
    known = naive[train].copy()
    sc.pp.highly_variable_genes(known, n_top_genes=80, flavor="seurat")
    genes = known.var["highly_variable"].to_numpy()
    pca = PCA(6, svd_solver="full").fit(known.X[:, genes].toarray())
    expected = pca.transform(naive.X[:, genes].toarray())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-3, rtol=1e-4)


def test_other_cells_do_not_matter_and_neither_do_blocks(counted, monkeypatch):
    train = np.arange(90) < 60
    found = expression.expression_pca(open_counts(counted), train, 5)
    other = counted.copy()
    other.X = sp.vstack([counted.X[:60], counted.X[60:] * 7], format="csr")
    np.testing.assert_allclose(expression.expression_pca(open_counts(other), train, 5), found, atol=1e-4)
    monkeypatch.setattr("scgeneformer._adata.counts.ROWS_PER_BLOCK", 7)
    np.testing.assert_allclose(expression.expression_pca(open_counts(counted), train, 5), found, atol=1e-4)


def test_few_cells_give_few_components(counted):
    assert expression.expression_pca(open_counts(counted), np.arange(90) < 4, 50).shape == (90, 3)


def test_counts_that_do_not_vary_have_no_components():
    adata = ad.AnnData(sp.csr_matrix(np.ones((6, 3), np.float32)))
    with pytest.raises(DataError, match=r"No gene of adata.X varies between the training cells.*gf\.pp\.check"):
        expression.expression_pca(open_counts(adata), np.ones(6, dtype=bool), 2)
