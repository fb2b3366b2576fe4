import anndata as ad
import numpy as np
import pytest
import torch
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_bert, make_model

import scgeneformer as gf
from scgeneformer._engine import attention_weights

KEY = "geneformer_attention"


def by_hand(adata, model, block, heads=(0, 1, 2, 3), cells=None):
    """Mean over cells of the eager stock model's attention between genes, and the number of cells, in float64."""
    tokens = gf.tl.tokenize(adata, model, copy=True).obsm["geneformer_tokens"].astype(np.int64)
    stock = make_bert(model.vocabulary)
    stock.config._attn_implementation = "eager"
    first = model.vocabulary.tokens[0]
    sums, n_cells = np.zeros((40, 40)), np.zeros((40, 40))
    for row in tokens if cells is None else tokens[cells]:
        ids = row[row > 0]
        if not len(ids):
            continue
        with torch.no_grad():
            weights = stock(torch.tensor(ids[None]), output_attentions=True).attentions[block - 1][0]
        weights = weights[list(heads)].double().mean(dim=0).numpy()
        places = np.flatnonzero(ids >= first)
        genes = ids[places] - first
        sums[np.ix_(genes, genes)] += weights[np.ix_(places, places)]
        n_cells[np.ix_(genes, genes)] += 1
    return sums / np.maximum(n_cells, 1), n_cells


def stored(adata, key=KEY):
    return adata.varp[key].toarray(), adata.varp[f"{key}_n_cells"].toarray()


@pytest.fixture(params=["dense", "sparse"])
def accumulator(request, monkeypatch):
    if request.param == "sparse":
        monkeypatch.setattr(attention_weights, "DENSE_BYTES", 0)


@pytest.mark.parametrize(
    ("layer", "block", "heads"), [(-1, 3, None), (1, 1, 2), (-2, 2, [3, 0, 3])], ids=["last", "one head", "two heads"]
)
def test_it_equals_the_eager_stock_model_cell_by_cell(adata, model, accumulator, layer, block, heads):
    gf.tl.attention(adata, model, layer=layer, heads=heads)
    used = range(4) if heads is None else np.unique(heads)
    expected, n_cells = by_hand(adata, model, block, used)
    found, found_n = stored(adata)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found_n, n_cells)
    params = adata.uns[KEY]["params"]
    assert params["layer"] == block
    assert params["heads"].tolist() == list(used)
    assert (adata.varp[KEY].format, adata.varp[KEY].dtype) == ("csr", np.float32)


def test_every_group_is_averaged_over_its_own_cells(adata, model, accumulator):
    clear_cells(adata, 4)
    adata.obs.loc["cell0", "cell_type"] = np.nan
    gf.tl.attention(adata, model, groupby=["cell_type", "donor"])
    table = adata.uns[f"{KEY}_cell_type_donor_groups"]
    assert len(table) == 6
    for i, (cell_type, donor, n) in enumerate(table.itertuples(index=False)):
        cells = np.flatnonzero((adata.obs["cell_type"] == cell_type) & (adata.obs["donor"] == donor))
        expected, n_cells = by_hand(adata, model, 3, cells=cells)
        found, found_n = stored(adata, f"{KEY}_cell_type_donor_{i}")
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_array_equal(found_n, n_cells)
        assert n == (adata.obs["geneformer_n_tokens"].to_numpy()[cells] > 0).sum()
    assert KEY not in adata.varp


@pytest.mark.parametrize("tokens_per_batch", [1, 37, 100_000])
def test_it_does_not_depend_on_batches_tiles_and_devices(adata, model, accumulator, tokens_per_batch, monkeypatch):
    one = gf.tl.attention(adata, model, copy=True)
    monkeypatch.setattr(attention_weights, "QUERIES_AT_ONCE", 3)
    other = gf.tl.attention(adata, model, tokens_per_batch=tokens_per_batch, device=["cpu", "cpu"], copy=True)
    for a, b in zip(stored(one), stored(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_weights_of_a_gene_sum_to_one_less_the_share_of_special_tokens():
    adata = make_adata(n_cells=1)
    for special in (False, True):
        found = gf.tl.attention(adata, make_model(special=special), copy=True).varp[KEY].toarray().sum(axis=1)
        found = found[found > 0]
        assert (found < 0.999).all() if special else np.allclose(found, 1, atol=1e-5)


def test_genes_of_interest_are_that_part_of_all(adata, model, accumulator, log):
    whole, whole_n = stored(gf.tl.attention(adata, model, copy=True))
    gf.tl.attention(adata, model, genes=["G7", "ENSG00000000002", "nope", "OLD3"])
    part = np.zeros((40, 40), dtype=bool)
    part[np.ix_([2, 3, 7], [2, 3, 7])] = True
    found, n_cells = stored(adata)
    np.testing.assert_allclose(found, np.where(part, whole, 0), atol=1e-7)
    np.testing.assert_array_equal(n_cells, np.where(part, whole_n, 0))
    assert "'nope'" in log()


def test_the_strongest_keys_of_each_gene_are_kept(adata, model, accumulator):
    whole, n_cells = stored(gf.tl.attention(adata, model, copy=True))
    gf.tl.attention(adata, model, top_k=3, min_cells=2)
    whole[n_cells < 2] = 0
    kept = whole >= np.maximum(np.sort(whole, axis=1)[:, [-3]], 1e-12)
    found, found_n = stored(adata)
    np.testing.assert_allclose(found, np.where(kept, whole, 0), atol=1e-7)
    np.testing.assert_array_equal(found_n, np.where(kept, n_cells, 0))
    assert adata.uns[KEY]["params"]["top_k"] == 3


def test_genes_that_share_a_token_share_rows_and_columns(adata, toy):
    adata.var.iloc[5, 0] = adata.var.iloc[4, 0]
    gf.tl.attention(adata, toy)
    found, _ = stored(adata)
    np.testing.assert_array_equal(found[4], found[5])
    np.testing.assert_array_equal(found[:, 4], found[:, 5])
    assert found[4].any()


def test_counts_in_raw_have_genes_of_their_own(adata, toy):
    part = adata[:, ::-2].copy()
    part.raw = adata
    whole, _ = stored(gf.tl.attention(adata, toy, copy=True))
    gf.tl.attention(part, toy, use_raw=True)
    np.testing.assert_allclose(stored(part)[0], whole[::-2, ::-2], atol=1e-7)


def test_a_call_with_fewer_groups_leaves_none_of_the_former(adata, toy, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    gf.tl.attention(adata, toy, groupby="cell_type")
    assert f"{KEY}_cell_type_2" in adata.varp
    adata.obs["cell_type"] = np.resize(["1/2", "3"], 12)
    before = adata.copy()
    monkeypatch.setattr("scgeneformer._adata.writer.drop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gf.tl.attention(adata, toy, groupby="cell_type")
    monkeypatch.undo()
    assert_equal(adata, before, exact=True)
    gf.tl.attention(adata, toy, groupby="cell_type")
    assert {key for key in adata.varp if key.startswith(f"{KEY}_cell_type_2")} == set()
    assert adata.uns[f"{KEY}_cell_type_groups"].index.tolist() == ["1/2", "3"]


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_results_survive_files_and_subsetting(adata, model, tmp_path, how):
    adata.obs["a/b"] = np.resize([1, 2], 12)
    gf.tl.attention(adata, model, top_k=4)
    gf.tl.attention(adata, model, groupby="cell_type")
    gf.tl.attention(adata, model, groupby="donor", key_added="att")
    path = tmp_path / f"a.{how}"
    adata.obs = adata.obs.drop(columns="a/b")  # which no file takes as a name
    getattr(adata, f"write_{how}")(path)
    assert_equal(getattr(ad, f"read_{how}")(path), adata)
    part = adata[3:, 5:30].copy()
    np.testing.assert_array_equal(stored(part)[0], stored(adata)[0][5:30, 5:30])
    assert len(gf.get.attention_df(part, "a", key="att_donor", n_pairs=5)) == 5


def test_a_column_with_a_slash_makes_a_key_without(adata, toy):
    adata.obs["a/b"] = np.resize([1, 2], 12)
    gf.tl.attention(adata, toy, groupby="a/b")
    assert f"{KEY}_a_b_1" in adata.varp
    assert adata.uns[f"{KEY}_a_b_groups"].index.tolist() == ["1", "2"]


def test_the_table_lists_the_strongest_pairs(adata, toy):
    gf.tl.attention(adata, toy)
    found = gf.get.attention_df(adata, n_pairs=7)
    whole, n_cells = stored(adata)
    np.fill_diagonal(whole, 0)
    np.testing.assert_array_equal(found["weight"], np.sort(whole, axis=None)[::-1][:7])
    for row in found.itertuples():
        i, j = adata.var_names.get_indexer([row.source, row.target])
        assert (whole[i, j], n_cells[i, j]) == (row.weight, row.n_cells)
    everything = gf.get.attention_df(adata, n_pairs=None, loops=True)
    assert len(everything) == adata.varp[KEY].nnz
    assert (everything["source"] == everything["target"]).any()


def test_one_gene_has_no_pairs_which_is_told(adata, toy, log):
    gf.tl.attention(adata, toy, genes="G1")
    assert "One gene has no pairs: only its attention to itself is stored. Name several: genes=" in log()
    assert len(gf.get.attention_df(adata)) == 0
    gf.tl.attention(adata, toy, genes=["G1", "G2"])
    assert log().count("has no pairs") == 1


def test_the_table_of_groups_names_them(adata, toy):
    gf.tl.attention(adata, toy, groupby="cell_type")
    both = gf.get.attention_df(adata, ["T cell", "CD4+/CD25 T Reg"], key=f"{KEY}_cell_type", n_pairs=2)
    assert both["group"].tolist() == ["T cell"] * 2 + ["CD4+/CD25 T Reg"] * 2
    one = gf.get.attention_df(adata, "CD4+/CD25 T Reg", key=f"{KEY}_cell_type", n_pairs=2)
    assert one.equals(both[2:].reset_index(drop=True))


def test_the_only_result_needs_no_key_and_several_are_told(adata, toy):
    gf.tl.attention(adata, toy, groupby="cell_type")
    everything = gf.get.attention_df(adata, key=f"{KEY}_cell_type", n_pairs=2)
    assert gf.get.attention_df(adata, n_pairs=2).equals(everything)
    gf.tl.attention(adata, toy)
    assert "group" not in gf.get.attention_df(adata)  # the default goes first
    assert set(gf.get.attention_df(adata, "T cell")["group"]) == {"T cell"}  # but has no groups
    gf.tl.attention(adata, toy, groupby="donor")
    with pytest.raises(gf.DataError, match=f"name one of them: key='{KEY}_cell_type' or key='{KEY}_donor'"):
        gf.get.attention_df(adata, "T cell")


def test_groups_may_be_numbers(adata, toy):
    adata.obs["number"] = np.resize([1, 2, 10], 12)
    gf.tl.attention(adata, toy, groupby="number")
    assert set(gf.get.attention_df(adata, 10, key=f"{KEY}_number")["group"]) == {"10"}
    assert set(gf.get.attention_df(adata, [1, 2], key=f"{KEY}_number")["group"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"key": "nope"}, "Run gf.tl.attention\\(adata\\) first"),
        ({"key": KEY, "group": "B"}, "it has no group='B'"),
        ({"key": f"{KEY}_cell_type", "group": "nope"}, "'B', 'CD4"),
        ({"n_pairs": 0}, "n_pairs=0"),
    ],
    ids=str,
)
def test_a_table_that_cannot_be_made_is_refused(adata, toy, given, text):
    gf.tl.attention(adata, toy)
    gf.tl.attention(adata, toy, groupby="cell_type")
    with pytest.raises(gf.DataError, match=text):
        gf.get.attention_df(adata, **given)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"layer": 0}, "no attention leads to"),
        ({"layer": -4}, "no attention leads to"),
        ({"layer": 4}, "hidden layers 0"),
        ({"layer": [1, 2]}, "names several layers"),
        ({"heads": 4}, "heads 0 to 3"),
        ({"heads": []}, "heads 0 to 3"),
        ({"heads": [-1]}, "heads 0 to 3"),
        ({"genes": ["nope"]}, "'nope'"),
        ({"genes": []}, "names none"),
        ({"groupby": "nope"}, "'cell_type', 'donor'"),
        ({"top_k": 0}, "top_k=0"),
        ({"min_cells": None}, "min_cells=None"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused_and_nothing_is_written(unchanged, toy, bad, text):
    with pytest.raises(gf.DataError, match=text):
        gf.tl.attention(unchanged, toy, **bad)


def test_a_copy_leaves_the_original_alone(unchanged, toy):
    assert KEY in gf.tl.attention(unchanged, toy, copy=True).varp


def test_only_empty_cells_give_an_empty_matrix(adata, toy, accumulator):
    adata.X = adata.X * 0
    gf.tl.attention(adata, toy)
    assert adata.varp[KEY].nnz == 0
    assert len(gf.get.attention_df(adata)) == 0


def test_a_backed_file_gives_the_same_numbers(adata, toy, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    gf.tl.attention(backed, toy, groupby="cell_type")
    gf.tl.attention(adata, toy, groupby="cell_type")
    np.testing.assert_array_equal(stored(backed, f"{KEY}_cell_type_1")[0], stored(adata, f"{KEY}_cell_type_1")[0])
    backed.file.close()


def test_an_interrupt_in_the_middle_leaves_the_data_alone(unchanged, toy, monkeypatch):
    calls, original = [], attention_weights.mean_attention

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(attention_weights, "mean_attention", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gf.tl.attention(unchanged, toy)
    assert len(calls) == 3


def test_a_mean_over_heads_never_holds_more_than_a_tile(monkeypatch):
    sizes, softmax = [], torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, **how: sizes.append(x.shape) or softmax(x, **how))
    monkeypatch.setattr(attention_weights, "QUERIES_AT_ONCE", 8)
    query, key = torch.randn(2, 4, 20, 5).unbind()
    found = attention_weights.mean_attention(query, key, torch.arange(20))
    assert sizes == [(4, 8, 20), (4, 8, 20), (4, 4, 20)]
    expected = softmax(query @ key.transpose(1, 2) / 5**0.5, dim=-1).mean(dim=0)
    torch.testing.assert_close(found, expected)
