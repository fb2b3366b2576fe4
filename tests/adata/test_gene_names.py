import numpy as np
import pandas as pd
import pytest

from scgeneformer._adata.gene_names import name_genes
from scgeneformer._errors import DataError, MissingKeyError

MOUSE = ["ENSMUSG00000000001.4", "ENSMUSG00000000028.16", "ENSMUSG00000000037.18"]
SYMBOLS = ["Gnai3", "Cdc45", "Scml2"]
CLEAN = [name.split(".")[0] for name in MOUSE]


@pytest.mark.parametrize(
    ("var", "column", "ids", "symbols"),
    [
        (pd.DataFrame({"gene_ids": MOUSE}, index=SYMBOLS), "gene_ids", CLEAN, SYMBOLS),
        (pd.DataFrame({"gene_name": SYMBOLS}, index=MOUSE), "var_names", CLEAN, SYMBOLS),
        (pd.DataFrame(index=MOUSE), "var_names", CLEAN, ["", "", ""]),
        (pd.DataFrame(index=SYMBOLS), "var_names", ["GNAI3", "CDC45", "SCML2"], SYMBOLS),
        (pd.DataFrame({"gene_ids": [14679, 12544, 107815]}, index=SYMBOLS), "var_names", None, SYMBOLS),
        (pd.DataFrame({"gene_ids": ["x", "y", "z"]}, index=SYMBOLS), "var_names", None, SYMBOLS),
        (pd.DataFrame({"ensembl_id": pd.Categorical(MOUSE)}, index=list("abc")), "ensembl_id", CLEAN, list("abc")),
    ],
)
def test_ids_of_any_species_come_before_names(var, column, ids, symbols):
    found = name_genes(var)
    assert found.column == column
    assert found.ids.tolist() == (ids or [name.upper() for name in SYMBOLS])
    assert found.symbols.tolist() == symbols


def test_a_column_that_is_named_is_taken():
    var = pd.DataFrame({"ensembl_id": MOUSE, "panel": ["p1", " P2", "p3 "]}, index=SYMBOLS)
    assert name_genes(var, "panel").ids.tolist() == ["P1", "P2", "P3"]
    assert name_genes(var, "var_names").ids.tolist() == ["GNAI3", "CDC45", "SCML2"]
    with pytest.raises(MissingKeyError, match=r"adata.var\['absent'\] does not exist; the columns are: 'ensembl_id'"):
        name_genes(var, "absent")


def test_genes_are_sorted_and_those_without_an_id_belong_to_none():
    var = pd.DataFrame({"ensembl_id": [MOUSE[2], "", MOUSE[0], None, CLEAN[2]]}, index=list("vwxyz"))
    names = name_genes(var)
    assert names.n_unnamed == 2
    ids, symbols, gene_of_column = names.genes()
    assert ids.tolist() == [CLEAN[0], CLEAN[2]]
    assert symbols.tolist() == ["x", "v"]
    assert gene_of_column.tolist() == [1, -1, 0, -1, 1]


def test_a_column_without_any_id_is_refused():
    var = pd.DataFrame({"ids": ["", np.nan]}, index=["a", "b"])
    with pytest.raises(DataError, match=r"adata.var\['ids'\] gives no gene an ID. Name another column: gene_ids="):
        name_genes(var, "ids")
