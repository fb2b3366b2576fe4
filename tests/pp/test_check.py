import numpy as np
import pandas as pd
import pytest
from toys import clear_cells, make_adata

import scgeneformer as gf


def level_of(report):
    return {finding.topic: finding.level for finding in report.findings}


def test_good_data_are_ok_and_stay_as_they_are(unchanged, toy):
    report = gf.pp.check(unchanged, toy)
    assert report.ok
    levels = level_of(report)
    assert levels.pop("truncation") in ("ok", "note")
    assert levels == dict.fromkeys(["counts", "genes", "coverage", "empty cells"], "ok")


def test_the_report_prints_and_gives_a_table(adata, toy):
    report = gf.pp.check(adata, toy)
    text = str(report)
    assert "✓ genes: Ensembl IDs in adata.var['ensembl_id'], human" in text
    assert "the model knows 40 of 40 genes, with 100.0% of the counts" in text
    table = report.to_frame()
    assert isinstance(table, pd.DataFrame)
    assert table.columns.tolist() == ["topic", "level", "finding", "remedy"]
    assert len(table) == len(report.findings)


def test_scaled_data_are_a_problem_and_the_place_of_the_counts_is_named(adata, toy):
    adata.layers["counts"] = adata.X.copy()
    adata.layers["scaled"] = adata.X.toarray() - 1
    adata.raw = adata
    adata.X = adata.X.toarray() - 1
    report = gf.pp.check(adata, toy)
    assert not report.ok
    assert "Usable: counts_layer='counts' or use_raw=True." in str(report)
    assert gf.pp.check(adata, toy, counts_layer="counts").ok


def test_log_normalised_values_are_noted(adata, toy):
    adata.X = adata.X.log1p()
    report = gf.pp.check(adata, toy)
    assert report.ok
    assert level_of(report)["counts"] == "note"


def test_unknown_genes_are_a_problem(toy):
    adata = make_adata()
    adata.var = pd.DataFrame(index=[f"Actb{i}" for i in range(40)])
    report = gf.pp.check(adata, toy)
    assert level_of(report)["genes"] == "problem"
    assert "mouse or rat" in str(report)


def test_duplicates_empty_cells_and_truncation_are_counted(toy):
    adata = make_adata()
    clear_cells(adata, 2, 3)
    adata.var_names = ["G1", "G1-1", *adata.var_names[2:]]
    del adata.var["ensembl_id"]
    text = str(gf.pp.check(adata, toy))
    assert "1 genes share a token" in text
    assert "2 of 12 cells looked at have no count" in text
    n_genes = (adata.X.toarray() > 0).sum(axis=1)
    assert (n_genes > 16).any()
    assert "genes of the lowest ranks are cut off" in text


def test_little_coverage_of_the_counts_is_noted(toy):
    adata = make_adata()
    dense = adata.X.toarray()
    dense[:, 0] = 1e6
    adata.X = dense
    adata.var["ensembl_id"] = ["ENSG99999999999", *adata.var["ensembl_id"].iloc[1:]]
    assert level_of(gf.pp.check(adata, toy))["coverage"] == "note"


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_bad_values_are_a_problem_not_an_error(adata, toy, value):
    adata.X = adata.X.toarray()
    adata.X[0, 0] = value
    assert level_of(gf.pp.check(adata, toy))["counts"] == "problem"
