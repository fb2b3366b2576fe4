"""IDs and symbols of the genes of an AnnData, for whichever species, with no vocabulary to look them up in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from scgeneformer._adata.genes import ID_COLUMNS, INDEX, SYMBOL_COLUMNS, check_column, where_genes
from scgeneformer._engine.genes import is_ensembl, normalise_name
from scgeneformer._errors import DataError


@dataclass(frozen=True, eq=False)
class GeneNames:
    """What the data call their genes.

    Parameters
    ----------
    ids
        ID of each column of the counts, (n_vars,) str as :func:`normalise_name` writes it: what tokenisation looks up;
        empty where the data give none. Columns of the same ID are the same gene.
    symbols
        Symbols, (n_vars,) str as the data write them; empty where there are none.
    column
        Column of `var` with the IDs, or "var_names".
    """

    ids: np.ndarray
    symbols: np.ndarray
    column: str

    @property
    def n_unnamed(self) -> int:
        """Number of genes without an ID."""
        return int((self.ids == "").sum())

    def genes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """IDs, ascending and each once; their symbols; the number of the gene of each column, -1 without an ID."""
        ids, first, number = np.unique(self.ids, return_index=True, return_inverse=True)
        skip = int(len(ids) > 0 and ids[0] == "")
        return ids[skip:], self.symbols[first[skip:]], number - skip


def name_genes(var: pd.DataFrame, gene_ids: str | None = None) -> GeneNames:
    """Find IDs and symbols.

    Parameters
    ----------
    var
        Annotation of the genes.
    gene_ids
        Column with the IDs, or "var_names"; None takes the first of the usual columns and the index that holds Ensembl
        IDs (of any species), or else the index.

    Raises
    ------
    MissingKeyError
        If the column does not exist.
    DataError
        If no gene has an ID.
    """
    if gene_ids is not None:
        check_column(var, gene_ids)
    text = {name: _texts(var, name) for name in (*_present(var, ID_COLUMNS), INDEX, *_present(var, SYMBOL_COLUMNS))}
    ensembl = [name for name in (*_present(var, ID_COLUMNS), INDEX) if _are_ensembl(text[name])]
    column = gene_ids if gene_ids is not None else ensembl[0] if ensembl else INDEX
    names = text[column] if column in text else _texts(var, column)
    ids = np.array([normalise_name(name) for name in names], dtype=str)
    if len(ids) and not (ids != "").any():
        raise DataError(f"{where_genes(column)} gives no gene an ID. Name another column: gene_ids='<column>'.")
    return GeneNames(ids, np.array(_symbols(text, column, names), dtype=str), column)


def _present(var: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    return [name for name in columns if name in var and not pd.api.types.is_numeric_dtype(var[name])]


def _texts(var: pd.DataFrame, column: str) -> list[str]:
    """A column as text; what is missing is empty."""
    values = pd.Series(var.index if column == INDEX else var[column].to_numpy(), dtype=object)
    texts = values.where(values.notna(), "").astype(str).str.strip()
    return texts.where(texts != "nan", "").tolist()


def _are_ensembl(names: list[str]) -> bool:
    given = [name for name in names if name]
    return bool(given) and bool(np.mean([is_ensembl(name) for name in given]) > 0.5)


def _symbols(text: dict[str, list[str]], column: str, names: list[str]) -> list[str]:
    """Names that are no Ensembl IDs: of a symbol column, of the index, or the IDs themselves."""
    for other in (*(name for name in text if name in SYMBOL_COLUMNS), INDEX):
        if other != column and not _are_ensembl(text[other]):
            return text[other]
    return names if not _are_ensembl(names) else [""] * len(names)
