import gc
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toys import make_adata, make_vocabulary

from scgeneformer._adata import genes
from scgeneformer._adata.genes import map_genes
from scgeneformer._engine.genes import match_genes, normalise_name, species_of
from scgeneformer._errors import DataError, MissingKeyError

VOCABULARY = make_vocabulary(40)


def ids(n=40):
    return [f"ENSG{i:011d}" for i in range(n)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ENSG00000000003.14", "ENSG00000000003"),
        (" ensg00000000003 ", "ENSG00000000003"),
        ("ENSG00000182162.11_PAR_Y", "ENSG00000182162"),
        ("ENSMUSG00000000001.4", "ENSMUSG00000000001"),
        ("RP11-34P13.7", "RP11-34P13.7"),
        ("C1orf112", "C1ORF112"),
    ],
)
def test_only_ensembl_ids_lose_their_version(name, expected):
    assert normalise_name(name) == expected


@pytest.mark.parametrize(
    "names",
    [ids(), [f"{i}.7" for i in ids()], [f"G{i}" for i in range(40)], [f"g{i}" for i in range(40)]],
    ids=["Ensembl IDs", "with version", "symbols", "lower case"],
)
def test_every_kind_of_name_finds_its_token(names):
    np.testing.assert_array_equal(match_genes(names, VOCABULARY), VOCABULARY.tokens)


def test_aliases_lead_to_the_gene_and_unknown_names_to_none():
    assert match_genes(["OLD3", "old3", "G3", "nothing"], VOCABULARY).tolist() == [5, 5, 5, -1]


def test_a_name_made_unique_stands_for_the_same_gene_only_beside_it():
    assert match_genes(["G3", "G3-1"], VOCABULARY).tolist() == [5, 5]
    assert match_genes(["G3-1"], VOCABULARY).tolist() == [-1]


def test_without_ensembl_ids_a_suffix_may_be_part_of_the_name():
    vocabulary = make_vocabulary()
    by_symbol = replace(vocabulary, ensembl_ids=vocabulary.symbols, aliases={})
    assert match_genes(["G1", "G1-1", "G2-1"], by_symbol).tolist() == [3, -1, -1]


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (["ENSG00000000003", "ENSG00000000005.1"], "human"),
        (["ENSMUSG00000000001", "Gapdh"], "mouse"),
        (["Gapdh", "Cd74", "0610007P14Rik", "H2-K1"], "mouse or rat"),
        (["GAPDH", "C1orf112", "CD74"], None),
        (["gapdh", "cd74"], None),
        (["ENSDARG00000000001"], "zebrafish"),
        (["ENSXETG00000000001"], "another species"),
        ([], None),
        (["1", "2"], None),
    ],
)
def test_names_tell_the_species_before_case_is_folded(names, species):
    assert species_of(names) == species


def test_the_index_is_used_and_an_ensembl_column_is_preferred():
    var = pd.DataFrame(index=[f"G{i}" for i in range(40)])
    assert map_genes(var, VOCABULARY).column == "var_names"
    var["gene_ids"] = ids()
    assert map_genes(var, VOCABULARY).column == "gene_ids"


def test_symbols_win_over_an_ensembl_column_that_matches_less_than_half_as_many():
    var = pd.DataFrame({"gene_ids": [*ids(10), *["ENSG99999999999"] * 30]}, index=[f"G{i}" for i in range(40)])
    assert map_genes(var, VOCABULARY).column == "var_names"


def test_genes_without_an_id_are_named_by_the_other_columns():
    var = pd.DataFrame({"ensembl_id": ids()}, index=[f"G{i}" for i in range(40)])
    var.loc[["G1", "G2", "G3", "G4"], "ensembl_id"] = ["", "nan", None, "ENSG99999999999"]
    var.loc["G4", "gene_symbols"] = "G4"
    genes = map_genes(var, VOCABULARY)
    assert (genes.column, genes.n_matched, genes.n_filled) == ("ensembl_id", 39, 3)
    assert genes.tokens[:6].tolist() == [2, 3, 4, 5, -1, 7]  # an ID that the model does not know stays unknown
    assert genes.names[:3].tolist() == ["ENSG00000000000", "G1", "G2"]
    assert map_genes(var, VOCABULARY, "ensembl_id").n_matched == 36  # a column that is named counts alone


def test_a_symbol_does_not_take_the_token_of_a_gene_that_has_an_id():
    var = pd.DataFrame({"ensembl_id": ["", *ids()[3:]]}, index=["OLD3", *[f"G{i}" for i in range(3, 40)]])
    assert match_genes(["OLD3"], VOCABULARY).tolist() == [5]
    assert map_genes(var, VOCABULARY).tokens[:2].tolist() == [-1, 5]


def test_ids_name_genes_whose_symbols_the_model_does_not_know():
    var = pd.DataFrame({"ensembl_id": ["ENSG00000000000", *[""] * 39]}, index=["new", *[f"G{i}" for i in range(1, 40)]])
    genes = map_genes(var, VOCABULARY)
    assert (genes.column, genes.n_filled) == ("var_names", 1)
    np.testing.assert_array_equal(genes.tokens, VOCABULARY.tokens)


def test_symbols_are_not_taken_where_the_model_knows_several_species():
    mixed = ids()
    mixed[20:] = [f"ENSMUSG{i:011d}" for i in range(20)]
    vocabulary = replace(VOCABULARY, ensembl_ids=np.array(mixed), aliases={})
    var = pd.DataFrame({"ensembl_id": ["", *mixed[1:]]}, index=[f"G{i}" for i in range(40)])
    assert map_genes(var, vocabulary).tokens[:2].tolist() == [-1, 3]


def test_any_column_can_be_named():
    var = pd.DataFrame({"mine": ids()}, index=[f"x{i}" for i in range(40)])
    assert map_genes(var, VOCABULARY, "mine").n_matched == 40
    with pytest.raises(MissingKeyError, match=r"var\['other'\] does not exist; the columns are: 'mine'"):
        map_genes(var, VOCABULARY, "other")


def test_categorical_and_missing_names_are_read():
    var = pd.DataFrame({"gene_ids": pd.Categorical([*ids(39), None])}, index=[f"x{i}" for i in range(40)])
    assert map_genes(var, VOCABULARY).tokens.tolist() == [*range(2, 41), -1]


def test_duplicates_are_counted_beyond_the_first():
    var = pd.DataFrame(index=["G1", "G1-1", "ENSG00000000001", "G2", "nothing"])
    assert map_genes(var, VOCABULARY).n_duplicates == 2


@pytest.mark.parametrize("column", [None, "symbol"])
def test_mouse_symbols_do_not_pass_as_human(column):
    var = pd.DataFrame(index=[f"Gene{i}" for i in range(10)] + [f"g{i}" for i in range(8)])
    var["symbol"] = var.index
    with pytest.raises(DataError, match=r"those of mouse or rat.*knows those of human.*orthologs"):
        map_genes(var, VOCABULARY, column)


def test_upper_case_symbols_do_not_pass_as_human_beside_mouse_ids():
    var = pd.DataFrame({"ensembl_id": [f"ENSMUSG{i:011d}" for i in range(40)]}, index=[f"G{i}" for i in range(40)])
    with pytest.raises(DataError, match=r"adata\.var\['ensembl_id'\] are those of mouse"):
        map_genes(var, VOCABULARY)
    assert map_genes(var, VOCABULARY, "var_names").n_matched == 40  # unless the user names the column


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ([str(i) for i in range(40)], "they are numbers"),
        ([f"GRCh38_X{i}" for i in range(40)], "remove 'GRCh38_'"),
        ([f"P{i}" for i in range(40)], "wrong column"),
    ],
)
def test_too_few_known_genes_are_refused_with_the_likely_reason(index, reason):
    var = pd.DataFrame({"note": ["a"] * 40}, index=index)
    with pytest.raises(DataError, match=rf"Only 0 of 40 genes.*{reason}.*'note'"):
        map_genes(var, VOCABULARY)


@pytest.fixture(scope="module", params=["V1", "V2"])
def published(request, shared):
    from scgeneformer._engine.dictionaries import vocabulary_from_dictionaries

    return vocabulary_from_dictionaries(shared / "dictionaries" / request.param)


@pytest.mark.parametrize("file", ["mouse_cortex_e17", "mouse_hpc_spring", "mouse_blastocyst_e35_e45"])
def test_real_mouse_data_are_refused_unless_orthologs_are_named(shared, file, published):
    import anndata as ad

    var = ad.read_h5ad(shared / "data" / f"{file}.h5ad", backed="r").var
    with pytest.raises(DataError, match="mouse"):
        map_genes(var, published)
    assert map_genes(var, published, "human_ensembl_id").n_matched > 1000


def test_no_gene_of_real_cells_is_lost_where_ids_are_missing(shared, published):
    import anndata as ad

    var = ad.read_h5ad(shared / "data" / "kang18_ifnb_2k.h5ad", backed="r").var
    genes, by_id, by_symbol = (map_genes(var, published, column) for column in (None, "ensembl_id", "var_names"))
    known = by_id.tokens >= 0
    np.testing.assert_array_equal(genes.tokens[known], by_id.tokens[known])
    assert np.isin(by_symbol.tokens[~known], genes.tokens).all()
    assert genes.n_duplicates == 0
    assert genes.n_filled == genes.n_matched - by_id.n_matched > 0


def test_no_genes_are_refused_in_words():
    with pytest.raises(DataError, match="Only 0 of 0 genes"):
        map_genes(pd.DataFrame(index=pd.Index([], dtype=str)), VOCABULARY)


# --- names are read once --------------------------------------------------------------------------------------------


def test_the_same_names_are_read_once_for_each_vocabulary(monkeypatch):
    read = []
    monkeypatch.setattr(genes, "match_genes", lambda names, known: read.append(known) or match_genes(names, known))
    var, one, other = make_adata().var, make_vocabulary(), make_vocabulary(30)
    first = map_genes(var, one)
    n = len(read)
    first.tokens[:] = -1  # its own
    again = map_genes(var.copy(), one)
    assert (len(read), again.n_matched) == (n, 40)
    assert map_genes(var, other).n_matched == 30
    assert map_genes(var.rename(index={"G0": "X"}), one).n_matched == 40
    assert len(read) > 2 * n


def test_a_vocabulary_that_is_gone_is_not_kept():
    vocabulary = make_vocabulary()
    map_genes(make_adata().var, vocabulary)
    gone = weakref.ref(vocabulary)
    del vocabulary
    gc.collect()
    assert gone() is None


def test_the_last_names_are_kept_and_no_more():
    kept: dict[bytes, str] = {}
    for i in range(3 * genes.KEPT):
        assert genes._once(kept, np.array([f"G{i}"]), ",".join) == f"G{i}"
    assert list(kept.values()) == [f"G{i}" for i in range(2 * genes.KEPT, 3 * genes.KEPT)]
