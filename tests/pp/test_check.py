from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_model

import scgeneformer as gf
from scgeneformer._engine.two_time_points import reads_two_times


def level_of(report):
    return {finding.topic: finding.level for finding in report.findings}


def remedy_of(report, topic):
    return next(finding.remedy for finding in report.findings if finding.topic == topic)


def run(code, **names):
    """What a user's notebook holds after a line of code, and what its last expression gave."""
    space = {"gf": gf, "sc": sc, "numpy": np, "scipy": scipy, **names}
    before, _, last = code.partition("  #")[0].rpartition("; ")
    exec(before, space)
    try:
        space["_"] = eval(last, space)
    except SyntaxError:
        exec(last, space)
    return space


def test_good_data_are_ready_and_stay_as_they_are(unchanged, toy):
    report = gf.pp.check(unchanged, toy)
    assert report.ok
    levels = level_of(report)
    assert levels.pop("genes per cell") == "note"  # the toys have 40 genes
    assert levels == dict.fromkeys(["counts", "genes", "coverage", "empty cells"], "ok")
    assert str(report).splitlines()[-1] == "→ Ready: gf.tl.embed_cells(adata, model=model)"
    assert "X_geneformer" in gf.tl.embed_cells(unchanged, **report.parameters, copy=True).obsm


def test_the_report_prints_and_gives_a_table(adata, toy):
    report = gf.pp.check(adata, toy)
    text = str(report)
    assert "✓ genes: Ensembl IDs in adata.var['ensembl_id'], human" in text
    assert "the model knows 40 of 40 genes, with 100.0% of the counts" in text
    table = report.to_frame()
    assert isinstance(table, pd.DataFrame)
    assert table.columns.tolist() == ["topic", "level", "finding", "remedy"]
    assert len(table) == len(report.findings)


def test_genes_that_other_columns_name_are_told(adata, toy):
    adata.var["ensembl_id"] = ["", "", *adata.var["ensembl_id"].iloc[2:]]
    text = str(gf.pp.check(adata, toy))
    assert "IDs in adata.var['ensembl_id'] and, for 2 genes without one, names in other columns, human" in text
    assert "the model knows 40 of 40 genes" in text


def test_the_gravest_finding_comes_first(adata, toy):
    adata.obs_names = ["a"] * 12
    adata.X = adata.X.toarray() - 1
    assert [finding.level for finding in gf.pp.check(adata, toy).findings] == ["problem", "note", "ok", "ok"]


def test_the_model_is_written_as_it_was_named(adata):
    adata = gf.datasets.pbmc68k()
    assert str(gf.pp.check(adata, "mini")).endswith("→ Ready: gf.tl.embed_cells(adata, model='mini')")
    with gf.settings.override(model="mini"):
        assert str(gf.pp.check(adata)).endswith("→ Ready: gf.tl.embed_cells(adata)")


# --- counts ---------------------------------------------------------------------------------------------------------


def test_scaled_data_are_a_problem_and_the_line_below_takes_the_counts(adata, toy):
    adata.layers["scaled"] = adata.X.toarray() - 1
    adata.layers["geneformer_delete"] = adata.X.copy()  # a result, no counts
    adata.layers["zz"] = adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.toarray() - 1
    report = gf.pp.check(adata, toy)
    assert not report.ok
    assert remedy_of(report, "counts") == "gf.pp.check(adata, model=model, counts_layer='counts')"
    assert run(remedy_of(report, "counts"), adata=adata, model=toy)["_"].ok
    call = "gf.tl.embed_cells(adata, model=model, counts_layer='counts')"
    assert str(report).endswith(f"→ Ready with these parameters: {call}")


def test_of_raw_and_layers_those_with_more_genes_are_taken(adata, toy):
    adata.raw = adata
    some = adata[:, :20].copy()
    some.X = some.X.toarray() - 1
    some.layers["counts"] = adata.X[:, :20].copy()
    assert gf.pp.check(some, toy).parameters == {"model": toy, "use_raw": True}


def test_scaled_data_alone_must_be_read_again(adata, toy):
    adata.X = adata.X.toarray() - 1
    report = gf.pp.check(adata, toy)
    assert remedy_of(report, "counts").startswith("adata = sc.read_h5ad(")
    assert report.parameters is None
    assert str(report).endswith("→ Not ready: mend what is marked ✗, from the top, and check again.")


def test_log_normalised_values_are_fine(adata, toy):
    adata.X = adata.X.log1p()
    report = gf.pp.check(adata, toy)
    assert level_of(report)["counts"] == "ok"
    assert "log1p" in str(report)


def test_fractions_of_which_nobody_knows_the_scale_are_noted_until_it_is_said(adata, toy):
    shares = np.random.default_rng(0).uniform(0.7, 1, adata.shape).astype(np.float32)
    adata.X = adata.X.multiply(shares).log1p().tocsr()
    report = gf.pp.check(adata, toy)
    assert level_of(report)["counts"] == "note"
    assert "holds fractions that do not tell their scale: taken as log1p of normalised counts." in str(report)
    assert level_of(gf.pp.check(run(remedy_of(report, "counts"), adata=adata)["adata"], toy))["counts"] == "ok"


def test_fractions_are_noted_and_lengths_of_genes_can_be_taken_out(adata, toy):
    counts = adata.X.toarray()
    adata.var["length"] = np.arange(1.0, 41)
    adata.X = scipy.sparse.csr_matrix(counts * 1000 / adata.var["length"].to_numpy())
    report = gf.pp.check(adata, toy)
    assert level_of(report)["counts"] == "note"
    assert "TPM" in str(report)
    space = run(remedy_of(report, "counts"), adata=adata)
    np.testing.assert_allclose(space["adata"].X.toarray(), 1000 * counts, rtol=1e-6)
    adata.layers["counts"] = scipy.sparse.csr_matrix(counts)
    adata.X = adata.X / 7
    assert gf.pp.check(adata, toy).parameters == {"model": toy, "counts_layer": "counts"}


def test_genes_that_only_raw_has_are_noted(adata, toy):
    adata.raw = adata
    some = adata[:, :20].copy()
    report = gf.pp.check(some, toy)
    assert report.ok
    assert "the model knows 40 genes of adata.raw, but 20 of adata.X" in str(report)
    assert run(remedy_of(report, "genes left out"), adata=some, model=toy)["_"].ok
    assert report.parameters == {"model": toy, "use_raw": True}
    assert "genes left out" not in level_of(gf.pp.check(adata, toy))


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_values_are_a_problem_until_they_are_zero(adata, toy, form, value):
    dense = adata.X.toarray()
    dense[0, 0] = value
    adata.X = form(dense)
    report = gf.pp.check(adata, toy)
    assert level_of(report)["counts"] == "problem"
    assert gf.pp.check(run(remedy_of(report, "counts"), adata=adata)["adata"], toy).ok


@pytest.mark.parametrize("where", [{"counts_layer": "nope"}, {"use_raw": True}, {"counts_layer": "a", "use_raw": True}])
def test_counts_that_are_not_where_they_are_said_to_be(adata, toy, where):
    adata.layers["a"] = -adata.X
    report = gf.pp.check(adata, toy, **where)
    assert level_of(report)["counts"] == "problem"
    assert report.parameters == {"model": toy}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float16, np.float64], ids=lambda d: d.__name__)
def test_whole_numbers_of_any_type_are_counts(adata, toy, dtype):
    adata.X = adata.X.toarray().astype(dtype)
    assert "adata.X holds counts." in str(gf.pp.check(adata, toy))


def test_tokens_from_a_file_stand_in_for_counts(tmp_path):
    pytest.importorskip("pyarrow")
    gf.datasets.write_tokens(gf.datasets.pbmc68k()[:5], tmp_path / "a.dataset", "mini")
    report = gf.pp.check(gf.datasets.read_tokens(tmp_path / "a.dataset", "mini"), "mini")
    assert report.ok
    assert "tokens that were read from a file" in str(report)


# --- genes ----------------------------------------------------------------------------------------------------------


def test_genes_of_another_species_are_a_problem_until_orthologs_are_named(adata, toy):
    symbols = adata.var_names.tolist()
    adata.var = pd.DataFrame(index=[f"Actb{i}" for i in range(40)])
    report = gf.pp.check(adata, toy)
    assert "those of mouse or rat (such as 'Actb0'), and the model knows those of human" in str(report)
    orthologs = dict(zip(adata.var_names, symbols, strict=True))
    run(remedy_of(report, "genes"), adata=adata, orthologs=orthologs)
    again = gf.pp.check(adata, toy)  # symbols are not taken for orthologs unless they are named
    assert not again.ok
    assert gf.pp.check(adata, toy, gene_ids="orthologs").ok


def test_the_column_of_orthologs_is_found(adata, toy):
    adata.var["human"] = adata.var["ensembl_id"]
    adata.var["ensembl_id"] = [f"ENSMUSG{i:011d}" for i in range(40)]
    adata.var["upper"] = adata.var_names
    report = gf.pp.check(adata, toy)
    assert report.parameters == {"model": toy, "gene_ids": "human"}
    assert run(remedy_of(report, "genes"), adata=adata, model=toy)["_"].ok


def test_genes_named_in_an_unusual_column_are_found(adata, toy):
    adata.var = pd.DataFrame({"mine": adata.var_names, "note": "x"}, index=[f"x{i}" for i in range(40)])
    report = gf.pp.check(adata, toy)
    assert not report.ok
    assert run(remedy_of(report, "genes"), adata=adata, model=toy)["_"].ok
    assert report.parameters == {"model": toy, "gene_ids": "mine"}


def test_a_column_that_is_wrong_or_not_there_is_left_out(adata, toy):
    adata.var["note"] = "x"
    for column in ("note", "nope"):
        report = gf.pp.check(adata, toy, gene_ids=column)
        assert level_of(report)["genes"] == "problem"
        assert report.parameters == {"model": toy}


def test_the_prefix_of_a_genome_is_taken_off(adata, toy):
    adata.var = pd.DataFrame(index=[f"GRCh38_{name}" for name in adata.var_names])
    report = gf.pp.check(adata, toy)
    assert gf.pp.check(run(remedy_of(report, "genes"), adata=adata)["adata"], toy).ok


def test_genes_in_the_rows_are_turned(adata, toy, tmp_path):
    turned = ad.AnnData(adata.X.T.tocsr(), obs=pd.DataFrame(index=adata.var_names), var=adata.obs)
    report = gf.pp.check(turned, toy)
    assert remedy_of(report, "genes") == "adata = adata.T.copy()"
    assert gf.pp.check(run(remedy_of(report, "genes"), adata=turned)["adata"], toy).ok
    turned.write_h5ad(tmp_path / "turned.h5ad")
    backed = ad.read_h5ad(tmp_path / "turned.h5ad", backed="r")
    assert gf.pp.check(run(remedy_of(gf.pp.check(backed, toy), "genes"), adata=backed)["adata"], toy).ok


def test_where_no_name_is_known_one_is_shown_what_there_is(adata, toy):
    adata.var = pd.DataFrame({"note": "x"}, index=[str(i) for i in range(40)])
    report = gf.pp.check(adata, toy)
    assert "they are numbers" in str(report)
    assert run(remedy_of(report, "genes"), adata=adata)["_"].equals(adata.var.head())
    assert report.parameters is None


def test_names_that_are_not_unique_are_made_so(adata, toy):
    adata.obs_names, adata.var_names = ["a"] * 12, ["G1", "G1", *adata.var_names[2:]]
    del adata.var["ensembl_id"]
    report = gf.pp.check(adata, toy)
    assert "1 of them share a token with another and are summed with it" in str(report)
    assert level_of(report)["names"] == "note"
    run(remedy_of(report, "names"), adata=adata)
    assert "names" not in level_of(gf.pp.check(adata, toy))


def test_little_coverage_of_the_counts_is_noted(adata, toy):
    dense = adata.X.toarray()
    dense[:, 0] = 1e6
    adata.X = dense
    adata.var["ensembl_id"] = ["ENSG99999999999", *adata.var["ensembl_id"].iloc[1:]]
    report = gf.pp.check(adata, toy)
    assert level_of(report)["coverage"] == "note"
    assert run(remedy_of(report, "coverage"), adata=adata, model=toy)["_"].tolist() == ["G0"]


def test_models_of_two_time_points_ask_for_the_layer_before(adata):
    model = make_model(special=True)
    two = replace(model, vocabulary=reads_two_times(model.vocabulary))
    adata.layers["before"] = adata.X.copy()
    report = gf.pp.check(adata, two)
    assert run(remedy_of(report, "time points"), adata=adata)["_"] == ["before"]
    assert "time points" not in level_of(gf.pp.check(adata, model))


# --- cells ----------------------------------------------------------------------------------------------------------


def test_empty_cells_are_counted_and_can_be_dropped(adata, toy):
    clear_cells(adata, 2, 3)
    report = gf.pp.check(adata, toy)
    assert "2 of 12 cells looked at have no count" in str(report)
    assert run(remedy_of(report, "empty cells"), adata=adata, model=toy)["adata"].n_obs == 10


def test_zeros_everywhere_are_a_problem(adata, toy):
    adata.layers["raw"] = adata.X.copy()
    adata.X = adata.X * 0
    assert gf.pp.check(adata, toy).parameters == {"model": toy, "counts_layer": "raw"}
    del adata.layers["raw"]
    report = gf.pp.check(adata, toy)
    assert remedy_of(report, "empty cells").startswith("adata = sc.read_h5ad(")
    assert report.parameters is None


def test_truncation_is_told(adata, toy):
    report = gf.pp.check(adata, toy)
    share = (np.diff(adata.X.indptr) >= 16).mean()
    assert f"in {share:.0%} of the cells those of the lowest ranks are cut off" in str(report)
    assert remedy_of(report, "genes per cell") == (
        "gf.tl.tokenize(adata, model=model); gf.pl.tokens(adata)  # genes per cell"
    )


@pytest.mark.parametrize(("rows", "columns"), [(0, 40), (12, 0)])
def test_nothing_is_a_problem_and_no_error(toy, rows, columns):
    adata = make_adata()[:rows, :columns].copy()
    before = adata.copy()
    report = gf.pp.check(adata, toy)
    assert level_of(report)["size"] == "problem"
    assert report.parameters is None
    assert_equal(adata, before)


@pytest.mark.parametrize("file", ["pbmc68k_reduced_counts", "tcell_citeseq_trex"])
def test_real_counts_are_ready(shared, file):
    adata = ad.read_h5ad(shared / "data" / f"{file}.h5ad")
    report = gf.pp.check(adata, "mini")
    assert level_of(report) == dict.fromkeys(["counts", "genes", "coverage", "empty cells", "genes per cell"], "ok")


def test_real_mouse_cells_are_led_to_their_orthologs(shared):
    adata = ad.read_h5ad(shared / "data" / "mouse_blastocyst_e35_e45.h5ad", backed="r")
    assert gf.pp.check(adata, "mini").parameters == {"model": "mini", "gene_ids": "human_ensembl_id"}
