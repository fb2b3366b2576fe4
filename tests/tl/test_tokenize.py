import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_model

import scgeneformer as gf


def expected_tokens(adata, model):
    """Rank-value encoding by the definition; symbols G<i> carry the token of gene i."""
    vocabulary, dense = model.vocabulary, adata.X.toarray().astype(float)
    padded = np.zeros((adata.n_obs, vocabulary.input_size), dtype=np.uint16)
    for row, cell in zip(padded, dense, strict=True):
        genes = sorted(np.flatnonzero(cell), key=lambda g: (-cell[g] / vocabulary.medians[g], vocabulary.tokens[g]))
        ranked = vocabulary.tokens[genes][: vocabulary.max_genes]
        if len(ranked):
            full = [*[2] * vocabulary.n_lead, *ranked, *[3] * vocabulary.n_trail]
            row[: len(full)] = full
    return padded


def test_tokens_and_their_numbers_are_written(adata, model):
    gf.tl.tokenize(adata, model)
    found = adata.obsm["geneformer_tokens"]
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected_tokens(adata, model))
    np.testing.assert_array_equal(adata.obs["geneformer_n_genes"], (adata.X.toarray() > 0).sum(axis=1))
    np.testing.assert_array_equal(adata.obs["geneformer_n_tokens"], (found > 0).sum(axis=1))
    assert (adata.obsm["geneformer_checksums"].dtype, adata.obsm["geneformer_checksums"].shape) == (np.uint64, (12, 1))


def test_blocks_do_not_show(monkeypatch, model):
    adata = make_adata(50)
    one = gf.tl.tokenize(adata, model, copy=True)
    monkeypatch.setattr("scgeneformer._adata.tokens.ROWS_PER_BLOCK", 7)
    assert_equal(gf.tl.tokenize(adata, model, copy=True), one)


def test_genes_that_share_a_token_are_summed(adata, toy):
    one_more = np.hstack([adata.X.toarray(), np.ones((12, 1)), np.zeros((12, 1))])  # of G3, in three columns
    split = ad.AnnData(one_more, var=pd.DataFrame(index=[*adata.var_names, "G3-1", "G3-2"]))
    summed = adata.copy()
    summed.X = summed.X.toarray()
    summed.X[:, 3] += 1
    gf.tl.tokenize(split, toy)
    gf.tl.tokenize(summed, toy)
    np.testing.assert_array_equal(split.obsm["geneformer_tokens"], summed.obsm["geneformer_tokens"])


def test_log_normalised_values_give_the_tokens_of_the_counts(toy):
    import scanpy as sc

    adata = make_adata(60)
    logged = adata.copy()
    logged.X = logged.X.astype(np.float64)
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    assert logged.X.max() < 20
    gf.tl.tokenize(adata, toy)
    gf.tl.tokenize(logged, toy)
    one, other = adata.obsm["geneformer_tokens"], logged.obsm["geneformer_tokens"]
    values = adata.X.toarray() / toy.vocabulary.medians  # where ranks differ, the values are equal up to rounding
    for cell, row, again in zip(values, one, other, strict=True):
        kept = row[row > 0] - 2
        np.testing.assert_allclose(cell[kept], cell[again[again > 0] - 2], rtol=1e-6)


def test_a_copy_leaves_the_original_alone(unchanged, toy):
    copied = gf.tl.tokenize(unchanged, toy, copy=True)
    assert "geneformer_tokens" in copied.obsm


def test_an_all_zero_cell_keeps_its_row_and_is_warned_of(adata, model, log):
    clear_cells(adata, 5)
    gf.tl.tokenize(adata, model)
    assert (adata.obsm["geneformer_tokens"][5] == 0).all()
    assert adata.obs["geneformer_n_tokens"].iloc[5] == 0
    text = log()
    assert text.count("WARNING") == 1
    assert "1 of 12 cells" in text
    assert "adata.obs['geneformer_n_tokens'] > 0" in text


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_results_survive_files(adata, model, tmp_path, how):
    gf.tl.tokenize(adata, model)
    path = tmp_path / f"a.{how}"
    getattr(adata, f"write_{how}")(path)
    again = getattr(ad, f"read_{how}")(path)
    assert_equal(again, adata)


def test_a_view_gets_results_of_its_own(adata, toy):
    view = adata[[4, 2, 9]]
    gf.tl.tokenize(view, toy)
    whole = gf.tl.tokenize(adata, toy, copy=True)
    np.testing.assert_array_equal(view.obsm["geneformer_tokens"], whole.obsm["geneformer_tokens"][[4, 2, 9]])
    assert "geneformer_tokens" not in adata.obsm


def test_a_backed_file_gives_the_same_tokens(adata, toy, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    gf.tl.tokenize(backed, toy)
    gf.tl.tokenize(adata, toy)
    np.testing.assert_array_equal(backed.obsm["geneformer_tokens"], adata.obsm["geneformer_tokens"])
    with pytest.raises(gf.DataError, match="to_memory"):
        gf.tl.tokenize(backed, toy, copy=True)
    backed.file.close()


def test_stored_tokens_are_used_only_for_the_same_counts_genes_and_vocabulary(adata, toy, monkeypatch):
    gf.tl.tokenize(adata, toy)
    plain = gf.tl.embed_cells(adata, toy, copy=True).obsm["X_geneformer"]
    adata.obsm["geneformer_tokens"][:, :2] = adata.obsm["geneformer_tokens"][:, 1::-1]  # to see whether they are read

    def embedding(**where):
        return gf.tl.embed_cells(adata, **{"model": toy} | where, copy=True).obsm["X_geneformer"]

    assert not np.allclose(embedding(), plain)
    adata.layers["counts"] = adata.X.copy()
    np.testing.assert_allclose(embedding(counts_layer="counts"), plain, atol=1e-6)
    other = make_model(n_genes=39)
    assert embedding(model=other).shape == plain.shape
    fewer = adata[:, :30].copy()
    np.testing.assert_allclose(
        gf.tl.embed_cells(fewer, toy, copy=True).obsm["X_geneformer"],
        gf.tl.embed_cells(make_adata()[:, :30].copy(), toy, copy=True).obsm["X_geneformer"],
        atol=1e-6,
    )


def test_bins_of_another_model_do_not_stay_beside_the_tokens(adata, toy):
    adata.obsm["geneformer_bins"] = np.zeros((12, 16), dtype=np.uint8)
    gf.tl.tokenize(adata, toy)
    assert "geneformer_bins" not in adata.obsm


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_stored_tokens_are_not_used_once_counts_were_changed(toy, log, tmp_path, how):
    adata = make_adata(60)
    gf.tl.tokenize(adata, toy)
    changed = adata.copy()
    row, gene = 41, int(changed.X[41].indices[0])
    changed.X[row, gene] = 0  # one count of one cell
    getattr(changed, f"write_{how}")(tmp_path / f"a.{how}")
    back = getattr(ad, f"read_{how}")(tmp_path / f"a.{how}")
    fresh = make_adata(60)
    fresh.X = changed.X.copy()
    gf.tl.embed_cells(fresh, toy)
    for one in (changed, back):
        gf.tl.embed_cells(one, toy)
        np.testing.assert_array_equal(one.obsm["X_geneformer"], fresh.obsm["X_geneformer"])
    text = "the counts were changed since gf.tl.tokenize: adata.obsm['geneformer_tokens'] is not used"
    assert log().count(text) == 2
    assert "using the tokens stored" not in log()


def test_stored_tokens_are_used_when_the_same_genes_are_found_by_another_column(adata, toy, log):
    adata.var["same"] = adata.var["ensembl_id"]
    gf.tl.tokenize(adata, toy)
    gf.tl.embed_cells(adata, toy, gene_ids="same")
    assert log().count("using the tokens stored") == 1


def test_it_is_told_why_stored_tokens_are_not_used(adata, toy, log):
    adata.layers["counts"] = adata.X.copy()
    gf.tl.tokenize(adata, toy)
    gf.tl.embed_cells(adata, toy, counts_layer="counts")
    assert "gf.tl.tokenize had other counts: adata.obsm['geneformer_tokens'] is not used" in log()
    gf.tl.embed_cells(adata[:, ::-1].copy(), toy, counts_layer="counts")
    assert "gf.tl.tokenize had other counts and genes: adata.obsm['geneformer_tokens'] is not used" in log()


def test_stored_tokens_go_with_their_cells(toy, log):
    adata = make_adata(60)
    gf.tl.tokenize(adata, toy)
    adata.X = adata.X.tocsc().astype(np.float64)  # the same counts
    some = adata[[50, 3, 17, 4]].copy()
    gf.tl.embed_cells(some, toy)
    gf.tl.embed_cells(adata[::-1].copy(), toy)
    assert log().count("using the tokens stored") == 2


def test_of_counts_in_a_file_a_sample_is_looked_at(toy, log, tmp_path):
    adata = make_adata(60)
    gf.tl.tokenize(adata, toy)
    adata.write_h5ad(tmp_path / "same.h5ad")
    adata.X = adata.X[::-1].copy()
    adata.write_h5ad(tmp_path / "other.h5ad")
    for name in ("same", "other"):
        backed = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        gf.tl.embed_cells(backed, toy)
        backed.file.close()
    assert log().count("using the tokens stored") == log().count("the counts were changed since") == 1
