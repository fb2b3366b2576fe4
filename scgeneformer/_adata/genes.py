"""Find the column of `var` that names the genes, and the token of every gene."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from scgeneformer._engine.genes import is_ensembl, match_genes, species_of
from scgeneformer._errors import DataError, missing_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgeneformer._engine.vocabulary import Vocabulary

T = TypeVar("T")
INDEX = "var_names"
ID_COLUMNS = ("ensembl_id", "ensembl_ids", "gene_ids", "gene_id", "ensembl", "ensembl_gene_id", "feature_id")
SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "gene_names", "gene_name", "symbol", "symbols", "feature_name")
MIN_MATCHED = 0.1  # share of the genes below which the names are taken to be wrong


@dataclass(frozen=True, eq=False)
class GeneMap:
    """Which token each column of the counts has.

    Parameters
    ----------
    tokens
        Token of each gene, (n_vars,) int32, -1 where the model does not know it.
    column
        Column of `var` that was used, or "var_names".
    names
        The names in it, (n_vars,) str.
    n_filled
        Number of genes that it leaves unnamed, and that have token and name by another column.
    """

    tokens: np.ndarray
    column: str
    names: np.ndarray
    n_filled: int = 0

    @property
    def species(self) -> str | None:
        """Species that the names tell, see :func:`species_of`."""
        return _once(_species, self.names, species_of)

    @property
    def n_matched(self) -> int:
        """Number of genes the model knows."""
        return int((self.tokens >= 0).sum())

    @property
    def n_duplicates(self) -> int:
        """Number of genes beyond the first that share a token with another."""
        known = self.tokens[self.tokens >= 0]
        return len(known) - len(np.unique(known))


def map_genes(var: pd.DataFrame, vocabulary: Vocabulary, gene_ids: str | None = None) -> GeneMap:
    """Give every gene of `var` its token.

    Parameters
    ----------
    var
        Annotation of the genes.
    vocabulary
        The genes the model knows.
    gene_ids
        Column with Ensembl IDs or symbols, or "var_names", which alone counts then. None looks in the index and in the
        usual columns, prefers Ensembl IDs, takes the names of genes without one from the others, and refuses if any
        of them belongs to another species.

    Raises
    ------
    MissingKeyError
        If the column does not exist.
    DataError
        If the genes are of another species, or less than a tenth of them is known.
    """
    found = matches(var, vocabulary, gene_ids)
    for candidate in found:
        _check_species(candidate, vocabulary, var)
    chosen = _choose(found)
    _check_symbols(chosen, vocabulary)
    chosen = _fill(chosen, found, vocabulary)
    if chosen.n_matched < _fewest(var):
        raise DataError(_too_few(chosen, var, vocabulary, gene_ids))
    return chosen


def matches(var: pd.DataFrame, vocabulary: Vocabulary, gene_ids: str | None = None) -> list[GeneMap]:
    """What the column that is named gives, or each of those that are looked at."""
    if gene_ids is not None:
        check_column(var, gene_ids)
    return [_match(var, column, vocabulary) for column in (usual_columns(var) if gene_ids is None else [gene_ids])]


def foreign_species(genes: GeneMap, vocabulary: Vocabulary) -> str | None:
    """Species of the genes, if their names tell it and the model knows no genes of it."""
    theirs, ours = genes.species, vocabulary.species
    return None if theirs is None or not ours or not ours.isdisjoint(theirs.split(" or ")) else theirs


def other_column(var: pd.DataFrame, vocabulary: Vocabulary) -> str | None:
    """The column that names most genes the model knows, beside those that are looked at; None if there is none.

    Symbols beside genes of another species are no orthologs, whatever their case: there only Ensembl IDs count.
    """
    usual = matches(var, vocabulary)
    ids_only = any(foreign_species(one, vocabulary) for one in usual)
    others = [name for name in _text_columns(var) if name not in [one.column for one in usual]]
    found = [_match(var, name, vocabulary) for name in others]
    found = [one for one in found if one.n_matched >= _fewest(var) and foreign_species(one, vocabulary) is None]
    found = [one for one in found if not ids_only or _are_ids(one.names[one.tokens >= 0])]
    return max(found, key=lambda one: one.n_matched).column if found else None


def genome_prefix(names: pd.Index) -> str:
    """What names of genes begin with that carry their genome, such as "hg19_"; empty if they do not."""
    found = names.astype(str).str.extract(r"^((?:GRCh|hg|mm|GRCm)\d+_+)", expand=False).dropna()
    return str(found[0]) if len(found) else ""


def usual_columns(var: pd.DataFrame) -> list[str]:
    """Where genes are looked for: columns of IDs, the index, columns of symbols."""
    present = [column for column in (*ID_COLUMNS, *SYMBOL_COLUMNS) if column in _text_columns(var)]
    ids = [c for c in present if c in ID_COLUMNS]
    return [*ids, INDEX, *(c for c in present if c not in ids)]


def names_in(var: pd.DataFrame, column: str) -> np.ndarray:
    """The names in a column, or in the index, (n_vars,) str."""
    return (var.index if column == INDEX else var[column]).astype(str).to_numpy(str)


def check_column(var: pd.DataFrame, gene_ids: str) -> None:
    """Refuse a column of `var` that does not exist."""
    if gene_ids != INDEX and gene_ids not in var:
        raise missing_key("var", gene_ids, var.columns)


def _text_columns(var: pd.DataFrame) -> list[str]:
    return [name for name in var if isinstance(name, str) and not pd.api.types.is_numeric_dtype(var[name])]


def _fewest(var: pd.DataFrame) -> float:
    """Known genes below which the names are taken to be wrong."""
    return max(1, MIN_MATCHED * len(var))


def _are_ids(names: np.ndarray) -> bool:
    """Whether most of the names are Ensembl IDs."""
    return sum(map(is_ensembl, names[:1000])) > 0.5 * min(len(names), 1000)


def _match(var: pd.DataFrame, column: str, vocabulary: Vocabulary) -> GeneMap:
    names = names_in(var, column)
    tokens = _once(_tokens.setdefault(vocabulary, {}), names, lambda names: match_genes(names, vocabulary))
    return GeneMap(tokens.copy(), column, names)


KEPT = 8
_tokens: WeakKeyDictionary[Vocabulary, dict[bytes, np.ndarray]] = WeakKeyDictionary()
_species: dict[bytes, str | None] = {}


def _once(kept: dict[bytes, T], names: np.ndarray, read: Callable[[list[str]], T]) -> T:
    """What is read of names, once for the same ones: a data set is used in call after call. The last few are kept.

    Threads need no lock: each step with the dictionary is one of Python's own.
    """
    key = hashlib.sha256(f"{names.dtype}".encode() + names.tobytes()).digest()
    try:
        return kept[key]
    except KeyError:
        found = kept[key] = read(names.tolist())
    for old in [*kept][:-KEPT]:
        kept.pop(old, None)
    return found


def _choose(found: list[GeneMap]) -> GeneMap:
    """The first Ensembl column that matches at least half as many genes as the best one, else the best one."""
    best = max(found, key=lambda m: m.n_matched)
    for candidate in found:
        if _are_ids(candidate.names) and candidate.n_matched * 2 >= best.n_matched > 0:
            return candidate
    return best


def _fill(chosen: GeneMap, found: list[GeneMap], vocabulary: Vocabulary) -> GeneMap:
    """Name the genes that the column leaves unnamed as the other columns do.

    What the column does name goes before that: an Ensembl ID the model does not know stays unknown, and a token that
    the column gives to a gene is not given to a second one, whose symbol must be an alias (AGO2 and CASC7). Symbols do
    not tell the species, and are not taken where the model knows several.
    """
    if len(vocabulary.species) > 1:
        return chosen
    tokens, names = chosen.tokens, chosen.names
    nameless = (tokens < 0) & np.any([other.tokens >= 0 for other in found], axis=0)
    nameless[nameless] = [not is_ensembl(name) for name in names[nameless]]
    for other in found:
        taken = nameless & (tokens < 0) & (other.tokens >= 0) & ~np.isin(other.tokens, tokens)
        tokens, names = np.where(taken, other.tokens, tokens), np.where(taken, other.names, names)
    return GeneMap(tokens, chosen.column, names, int((tokens >= 0).sum()) - chosen.n_matched)


def _check_species(genes: GeneMap, vocabulary: Vocabulary, var: pd.DataFrame) -> None:
    theirs = foreign_species(genes, vocabulary)
    if theirs is None:
        return
    known, column = " and ".join(sorted(vocabulary.species)), other_column(var, vocabulary)
    raise DataError(
        f"The genes in {where_genes(genes.column)} are those of {theirs} (such as {str(genes.names[0])!r}), and the "
        f"model knows those of {known}; names that are alike are no orthologs. "
        + (
            f"Map them to {known} orthologs in a column of adata.var: gene_ids='<column>'."
            if column is None
            else f"Take the {known} orthologs in adata.var[{column!r}]: gene_ids={column!r}."
        )
    )


def _check_symbols(genes: GeneMap, vocabulary: Vocabulary) -> None:
    """Refuse symbols of one species where the model knows genes of others, too, which may have the same symbol."""
    theirs, ours = (genes.species or "").split(" or "), vocabulary.species
    if len(theirs) > 1 and not ours <= set(theirs):
        raise DataError(
            f"The genes in {where_genes(genes.column)} are symbols of {' or '.join(theirs)} (such as "
            f"{str(genes.names[0])!r}), and the model knows genes of {' and '.join(sorted(ours))}: symbols do not tell "
            "them apart. Name a column of adata.var with Ensembl IDs: gene_ids='<column>'."
        )


def _too_few(genes: GeneMap, var: pd.DataFrame, vocabulary: Vocabulary, gene_ids: str | None) -> str:
    looked = where_genes(genes.column) if gene_ids else "the index and the usual columns of adata.var"
    examples = ", ".join(repr(str(name)) for name in genes.names[:3])
    names = pd.Series(genes.names)
    if names.str.fullmatch(r"\d+").mean() > 0.5:
        reason = "they are numbers: is the index lost, or is this the wrong column?"
    elif prefix := genome_prefix(pd.Index(genes.names)):
        reason = f"they carry the prefix of a genome: remove {prefix!r}."
    else:
        reason = "is it the wrong column, or are they genes of another species?"
    if (column := other_column(var, vocabulary)) is not None:
        remedy = f"The model knows those in adata.var[{column!r}]: gene_ids={column!r}."
    else:
        others = ", ".join(map(repr, _text_columns(var))) or "none"
        remedy = f"Name the column with Ensembl IDs or symbols: gene_ids='<column>' (text columns: {others})."
    return (
        f"Only {genes.n_matched} of {len(var)} genes in {looked} are known to the model. They look like {examples}; "
        f"{reason} {remedy}"
    )


def where_genes(column: str) -> str:
    """A column of genes as a user would write it."""
    return "adata.var_names" if column == INDEX else f"adata.var[{column!r}]"
