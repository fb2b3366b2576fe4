import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from toys import make_adata, make_model, make_vocabulary

import scgeneformer as gf
from scgeneformer._adata.genes import map_genes
from scgeneformer._engine.vocabulary import read_vocabulary, write_vocabulary
from scgeneformer._errors import DataError

DEFAULT = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}


def cells(var_names, columns=None, n=30) -> ad.AnnData:
    """Cells in which each gene has a count somewhere."""
    counts = np.random.default_rng(0).integers(0, 4, (n, len(var_names)))
    counts[0] = 1
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(columns or {}, index=var_names))


def mouse(n=12, first=1, **more) -> ad.AnnData:
    ids = [f"ENSMUSG{i:011d}" for i in range(first, first + n)]
    return cells([f"Gen{i}a" for i in range(first, first + n)], {"gene_ids": ids}, **more)


@pytest.fixture
def statistics():
    return gf.models.gene_statistics(make_adata(n_cells=60))


def test_tokens_follow_the_ids_behind_the_special_ones(statistics):
    found = gf.models.build_vocabulary(statistics)
    assert found.special == DEFAULT
    assert found.tokens.tolist() == list(range(4, 44))
    assert found.ensembl_ids.tolist() == [f"ENSG{i:011d}" for i in range(40)]
    assert found.symbols.tolist() == [f"G{i}" for i in range(40)]
    np.testing.assert_array_equal(found.medians, statistics.median)
    assert (found.input_size, found.target_sum, found.n_tokens) == (2048, 1e4, 44)
    assert repr(found) == (
        "Vocabulary: 40 genes, special tokens <pad> <mask> <cls> <eos>, cells of up to 2,048 tokens, "
        "encoding rank-value"
    )


def test_the_order_of_genes_and_cells_does_not_show(statistics):
    adata = make_adata(n_cells=60)
    order = np.random.default_rng(1)
    shuffled = adata[order.permutation(60), order.permutation(40)].copy()
    other = gf.models.build_vocabulary(gf.models.gene_statistics([shuffled[40:], shuffled[:40]]))
    assert other.checksum == gf.models.build_vocabulary(statistics).checksum
    assert other.record == gf.models.build_vocabulary(statistics).record


def test_the_record_tells_what_it_was_made_from(statistics, tmp_path):
    found = gf.models.build_vocabulary(statistics, min_cells=3)
    made = found.record["vocabulary"]
    assert (made["cells"], made["genes"], made["min_cells"], made["target_sum"]) == (60, 40, 3, 1e4)
    assert (made["statistics"], made["exact_medians"]) == (statistics.checksum, True)
    write_vocabulary(found, tmp_path)
    back = read_vocabulary(tmp_path)
    assert back.checksum == found.checksum
    assert back.record == found.record


@pytest.mark.parametrize(
    "adata",
    [
        mouse(),
        cells([f"ENSMUSG{i:011d}.3" for i in range(12)], {"gene_name": [f"Gen{i}a" for i in range(12)]}),
        cells(["Gnai3", "Cdc45", "1700001C02Rik", "mt-Nd1", "H2-K1", "Nkx2-1", "Nkx2"]),
        cells(["eGFP", "Cas9_v2", "tdTomato", "ABC", "per-1", "Δ9"]),
        cells([f"FBgn{i:07d}" for i in range(10)]),
        cells([f"{i}" for i in range(10)]),
    ],
    ids=["mouse IDs in a column", "mouse IDs in the index", "mouse symbols", "mixed case", "fly", "numbers"],
)
def test_data_with_the_same_names_map_whole(adata):
    found = gf.models.build_vocabulary(gf.models.gene_statistics(adata))
    genes = map_genes(adata.var, found)
    assert genes.n_matched == adata.n_vars
    assert genes.n_duplicates == 0
    upper = adata[:, ::-1].copy()
    upper.var_names = upper.var_names.str.upper()
    assert map_genes(upper.var, found).tokens.tolist() == genes.tokens[::-1].tolist()


def test_real_mouse_data_map_whole(shared):
    adata = ad.read_h5ad(shared / "data" / "mouse_cortex_e17.h5ad")
    statistics = gf.models.gene_statistics(adata)
    found = gf.models.build_vocabulary(statistics)
    seen = (statistics.n_detected > 0).sum()
    assert len(found.tokens) == seen > 14_000
    genes = map_genes(adata.var, found)
    assert genes.column == "ensembl_id"
    named = adata.var["ensembl_id"].astype(str) != ""
    counted = np.asarray(adata.X.sum(axis=0)).ravel() > 0
    assert (genes.tokens[(named & counted).to_numpy()] >= 0).all()
    assert "Gnai3" in found.symbols


def test_a_model_with_it_encodes_the_cells(statistics):
    from dataclasses import replace

    vocabulary = gf.models.build_vocabulary(statistics, special_tokens=["<pad>", "<mask>"], input_size=16)
    adata = make_adata()
    gf.tl.tokenize(adata, replace(make_model(), vocabulary=vocabulary))
    dense = adata.X.toarray()[0]
    best = vocabulary.tokens[np.argmax(dense / vocabulary.medians)]
    assert adata.obsm["geneformer_tokens"][0, 0] == best


def test_min_cells_and_a_list_choose_genes(statistics, log):
    often = statistics.n_detected >= 24
    found = gf.models.build_vocabulary(statistics, min_cells=24)
    assert found.ensembl_ids.tolist() == statistics.gene_ids[often].tolist()
    some = ["ensg00000000007.2", "ENSG00000000003", "ABSENT"]
    found = gf.models.build_vocabulary(statistics, genes=some)
    assert found.ensembl_ids.tolist() == ["ENSG00000000003", "ENSG00000000007"]
    assert "1 of genes= have a count in too few cells and are left out: 'ABSENT'" in log()


def test_genes_that_no_cell_has_are_left_out():
    adata = make_adata(n_cells=60)
    adata.X = sp.csr_matrix(adata.X.toarray() * (np.arange(40) != 5))
    found = gf.models.build_vocabulary(gf.models.gene_statistics(adata))
    assert "ENSG00000000005" not in found.ensembl_ids
    assert len(found.tokens) == 39


def test_symbols_and_aliases_can_be_given(statistics):
    found = gf.models.build_vocabulary(
        statistics,
        symbols=pd.Series({"ensg00000000001": "Mine", "ENSG00000000000": None}),
        aliases={"Old Name": "ENSG00000000002.8"},
    )
    assert found.symbols[:3].tolist() == ["G0", "Mine", "G2"]
    assert found.aliases == {"OLD NAME": "ENSG00000000002"}
    assert found.token_of_name["OLD NAME"] == found.tokens[2]


def test_special_tokens_may_come_in_another_order(statistics):
    found = gf.models.build_vocabulary(statistics, special_tokens=["<pad>", "<cls>", "<mask>"])
    assert found.special == {"<pad>": 0, "<cls>": 1, "<mask>": 2}
    assert found.tokens[0] == 3
    assert (found.cls_token, found.eos_token) == (1, None)


# --- extending a vocabulary -----------------------------------------------------------------------------------------


def test_what_the_base_knows_stays_and_the_rest_is_appended(statistics):
    base = make_vocabulary(20, special=True)
    found = gf.models.build_vocabulary(statistics, base=base)
    assert (found.special, found.input_size, found.aliases) == (base.special, 16, base.aliases)
    for name in ("tokens", "ensembl_ids", "symbols", "medians"):
        np.testing.assert_array_equal(getattr(found, name)[:20], getattr(base, name))
    assert found.ensembl_ids.tolist() == [f"ENSG{i:011d}" for i in range(40)]
    assert found.tokens[20:].tolist() == list(range(24, 44))
    np.testing.assert_array_equal(found.medians[20:], statistics.median[20:])
    assert found.record["vocabulary"]["extends"] == base.checksum
    assert found.record["vocabulary"]["genes"] == 20


def test_models_and_names_of_models_can_be_extended():
    statistics = gf.models.gene_statistics(mouse())
    toy = make_model()
    assert len(gf.models.build_vocabulary(statistics, base=toy, input_size=64).tokens) == 52
    mini = gf.models.load_vocabulary("mini")
    found = gf.models.build_vocabulary(statistics, base="mini")
    assert found.n_tokens == mini.n_tokens + 12
    assert {**found.record, **mini.record} == {**found.record}
    assert {name: found.token_of_name[name] for name in mini.token_of_name} == mini.token_of_name


def test_a_symbol_that_means_another_gene_in_the_base_is_not_taken():
    base = make_vocabulary()
    adata = cells(["G3", "old3", "New"], {"gene_ids": [f"ENSMUSG{i:011d}" for i in range(3)]})
    found = gf.models.build_vocabulary(gf.models.gene_statistics(adata), base=base)
    assert found.symbols[-3:].tolist() == ["", "", "New"]
    assert found.token_of_name["G3"] == base.token_of_name["G3"]


def test_data_of_both_species_map_onto_an_extended_vocabulary():
    adata, base = mouse(), make_vocabulary()
    found = gf.models.build_vocabulary(gf.models.gene_statistics(adata), base=base)
    assert map_genes(adata.var, found).n_matched == 12
    assert map_genes(make_adata().var, found).n_matched == 40
    adata.var = adata.var.drop(columns="gene_ids")
    with pytest.raises(
        DataError, match=r"are symbols of mouse or rat .* knows genes of human and mouse: symbols do not"
    ):
        map_genes(adata.var, found)


def test_data_with_nothing_new_give_the_base(statistics):
    base = make_vocabulary()
    found = gf.models.build_vocabulary(statistics, base=base)
    assert found.checksum == base.checksum


def test_aliases_of_the_base_keep_their_meaning(statistics):
    base = make_vocabulary(20)
    found = gf.models.build_vocabulary(
        statistics, base=base, aliases={"old3": "ENSG00000000030", "g4": "ENSG00000000030", "new": "ENSG00000000030"}
    )
    assert found.aliases == {"OLD3": "ENSG00000000003", "NEW": "ENSG00000000030"}


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED = {
    "too many cells": (
        {"min_cells": 61},
        r"No gene has a count in min_cells=61 cells; the most frequent one has in \d+",
    ),
    "no cells": ({"min_cells": 0}, "min_cells=0 must be a whole number of at least 1"),
    "other genes": (
        {"genes": ["G1", "G2"]},
        r"None of the 2 genes= has enough cells with a count \(such as 'G1', 'G2'\). They must be .*'ENSG00000000000'",
    ),
    "unknown special token": (
        {"special_tokens": ["<pad>", "<mask>", "<sos>"]},
        "'<sos>' is not known; there are '<pad>'",
    ),
    "pad is not the first": ({"special_tokens": ["<mask>", "<pad>"]}, "must begin with '<pad>', whose token is 0"),
    "no mask": ({"special_tokens": ["<pad>"]}, "and hold '<mask>'; it is .*. Leave it out for"),
    "no special tokens": ({"special_tokens": []}, "must begin with '<pad>'"),
    "one twice": ({"special_tokens": ["<pad>", "<mask>", "<mask>"]}, "names one twice; each has one token"),
    "no room": ({"input_size": 4}, "input_size=4 must be a whole number of at least 5"),
    "alias of nothing": (
        {"aliases": {"x": "ENSG1"}},
        r"'X' stands for 'ENSG1', which is no ID of the vocabulary \(1 such\)",
    ),
    "other special tokens than the base": (
        {"base": make_vocabulary(), "special_tokens": ["<pad>", "<mask>", "<cls>"]},
        r"base has the special tokens \['<pad>', '<mask>'\], which stay as they are; leave special_tokens out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(statistics, case):
    parameters, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        gf.models.build_vocabulary(statistics, **parameters)


def test_other_things_than_statistics_are_refused():
    with pytest.raises(DataError, match=r"statistics is a AnnData. Give what gf.models.gene_statistics or .*load"):
        gf.models.build_vocabulary(make_adata())


def test_statistics_without_normalisation_or_of_another_are_refused():
    adata = make_adata()
    plain = gf.models.gene_statistics(adata, target_sum=None)
    with pytest.raises(DataError, match=r"taken of counts as they are \(target_sum=None\).*target_sum=10_000"):
        gf.models.build_vocabulary(plain)
    million = gf.models.gene_statistics(adata, target_sum=1e6)
    assert gf.models.build_vocabulary(million).target_sum == 1e6
    with pytest.raises(DataError, match=r"refer to 10000 counts per cell, the statistics to 1e\+06. Take .*=10000"):
        gf.models.build_vocabulary(million, base=make_vocabulary())
