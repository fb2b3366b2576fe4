from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from toys import make_counts

from scgeneformer._adata.scale import evident_base

COUNTS = make_counts(40, 60).toarray().astype(np.float64)
TOTALS = COUNTS.sum(axis=1, keepdims=True)
rng = np.random.default_rng(0)
CORRECTED = COUNTS * rng.uniform(0.7, 1, COUNTS.shape)  # as counts less ambient RNA: of another share of each
DEEP = rng.lognormal(0, 2, (40, 800)) * (rng.random((40, 800)) < 0.5)  # values so small that log1p rounds to 0.01
DEEP = np.log1p(DEEP / DEEP.sum(axis=1, keepdims=True) * 1e3).round(2)

SCALES = {
    "counts per 50": (COUNTS / TOTALS * 50, np.nan),
    "counts per median": (COUNTS / TOTALS * np.median(TOTALS), np.nan),
    "proportions": (COUNTS / TOTALS, np.nan),
    "counts times a constant": (COUNTS * 0.97, np.nan),
    "identical cells": (np.log1p(np.tile(COUNTS[0], (30, 1))), np.e),
    "the same value everywhere": ((COUNTS > 0) * 0.37, np.nan),
    "corrected, to one total": (CORRECTED / CORRECTED.sum(axis=1, keepdims=True) * 50, np.nan),
    "log1p of counts": (np.log1p(COUNTS), np.e),
    "log1p of counts per 10,000": (np.log1p(COUNTS / TOTALS * 1e4), np.e),
    "log1p of counts per median": (np.log1p(COUNTS / TOTALS * np.median(TOTALS)), np.e),
    "log1p of proportions": (np.log1p(COUNTS / TOTALS), np.e),
    "log1p of size factors": (np.log1p(COUNTS * rng.lognormal(0, 1, (40, 1))), np.e),
    "log1p of some genes": (np.log1p(COUNTS / TOTALS * 1e4)[:, ::3], np.e),
    "rounded to three digits": (np.log1p(COUNTS / TOTALS * 1e4).round(3), np.e),
    "rounded so that all are multiples of the smallest": (DEEP, np.e),
    "log1p of corrected to one total": (np.log1p(CORRECTED / CORRECTED.sum(axis=1, keepdims=True) * 1e4), np.e),
    "log2": (np.log2(1 + COUNTS / TOTALS * 1e4), 2.0),
    "log10": (np.log10(1 + COUNTS / TOTALS * 1e4), 10.0),
    "log2 of lengths taken out": (np.log2(1 + CORRECTED / CORRECTED.sum(axis=1, keepdims=True) * 1e6), 2.0),
    "corrected counts": (CORRECTED, None),
    "log1p of corrected counts": (np.log1p(CORRECTED), None),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SCALES)
def test_the_scale_is_the_one_on_which_values_are_what_counts_can_become(name, dtype):
    values, base = SCALES[name]
    found = evident_base(sp.csr_matrix(values.astype(dtype)))
    np.testing.assert_equal(found, base)


def test_totals_of_few_cells_are_equal_by_chance():
    logged = np.log1p(COUNTS / TOTALS * 1e4)[:, 5:]
    order = np.argsort(logged.sum(axis=1))
    for i, j in pairwise(order):  # whose sums are alike
        assert evident_base(sp.csr_matrix(logged[[i, j]])) == np.e


def test_another_base_is_found_where_it_is_named():
    values = sp.csr_matrix(np.log1p(COUNTS / TOTALS * 1e4) / np.log(3))
    assert evident_base(values) is None
    assert evident_base(values, (3.0, np.e)) == 3.0


def test_stored_zeros_and_empty_cells_do_not_matter_and_the_values_stay():
    values = sp.csr_matrix(np.log1p(np.vstack([COUNTS, np.zeros((500, 60))])))
    values.data[::7] = 0
    before = values.copy()
    assert evident_base(values) == np.e
    np.testing.assert_array_equal(values.data, before.data)
    assert np.isnan(evident_base(sp.csr_matrix(COUNTS[:1] / 3)))  # a single cell
