from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._checks import as_names, check_whole
from scgeneformer._engine.genes import match_genes, normalise_name
from scgeneformer._engine.statistics.gene_statistics import GeneStatistics
from scgeneformer._engine.vocabulary import Vocabulary, context_token
from scgeneformer._errors import DataError
from scgeneformer.models._load_vocabulary import load_vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scgeneformer._engine.encodings import Encoding
    from scgeneformer.models._model import ModelLike

SPECIAL_TOKENS = ("<pad>", "<mask>", "<cls>", "<eos>")
INPUT_SIZE = 2048
NAMED = 3  # genes named in a message


def build_vocabulary(
    statistics: GeneStatistics,
    *,
    special_tokens: Sequence[str] | None = None,
    input_size: int | None = None,
    genes: Sequence[str] | None = None,
    min_cells: int = 1,
    symbols: Mapping[str, str] | pd.Series | None = None,
    aliases: Mapping[str, str] | pd.Series | None = None,
    base: ModelLike | Vocabulary | None = None,
    encoding: Encoding | None = None,
) -> Vocabulary:
    """Build the vocabulary of a new model, of any species or panel, from statistics of its corpus.

    Tokens are given out in the order of the IDs, behind the special tokens: the same statistics make the same
    vocabulary. With `base` its tokens, genes, names and medians stay, and genes it does not know are appended behind,
    likewise in the order of their IDs.

    Parameters
    ----------
    statistics
        Of the corpus (:func:`gene_statistics`), normalised to a target sum.
    special_tokens
        Special tokens in the order of their tokens, out of "<pad>", which must be the first, "<mask>", which must be
        there, "<cls>" and "<eos>"; None takes all four, or those of `base`.
    input_size
        Longest sequence, special tokens included; None takes 2048, or that of `base`.
    genes
        IDs of the only genes to take, in any order; None takes all.
    min_cells
        Genes with a count in fewer cells are left out.
    symbols
        ID -> symbol, in place of those the statistics found in the data; missing values are passed over.
    aliases
        Other name, such as a former ID -> ID.
    base
        Model, or vocabulary, to extend; what :func:`load_vocabulary` takes.
    encoding
        How a cell becomes a sequence of tokens, such as :class:`ValueBinned`; None takes that of `base`, or the
        rank-value encoding. The values of its context have special tokens of their own, ``<column:value>``.

    Returns
    -------
    The vocabulary. Its `record` tells what it was made from: cells, genes, checksum of the statistics, target sum,
    `min_cells` and, with `base`, the checksum of that.

    Raises
    ------
    DataError
        If no gene is in `min_cells` cells or among `genes`, the special tokens are unknown, incomplete or others than
        those of `base`, an alias stands for no gene, or the statistics are none, or were taken without normalisation or
        with another target sum than `base`.

    See Also
    --------
    gene_statistics : the statistics.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> statistics = gf.models.gene_statistics(gf.datasets.pbmc68k())
    >>> vocabulary = gf.models.build_vocabulary(statistics, min_cells=10)
    >>> vocabulary.special
    {'<pad>': 0, '<mask>': 1, '<cls>': 2, '<eos>': 3}
    """
    check_whole(min_cells=min_cells)
    if not isinstance(statistics, GeneStatistics):
        raise DataError(
            f"statistics is a {type(statistics).__name__}. Give what gf.models.gene_statistics or GeneStatistics.load "
            "returns."
        )
    if statistics.target_sum is None:
        raise DataError(
            "The statistics were taken of counts as they are (target_sum=None), and the medians of a vocabulary refer "
            "to normalised counts. Take the statistics with target_sum=10_000."
        )
    old = _without_genes(special_tokens, statistics) if base is None else _checked(base, special_tokens, statistics)
    old = _with_context(old, encoding)
    table = _unknown_to(old, _chosen(statistics, min_cells, genes, symbols))
    size = old.input_size if input_size is None else input_size
    check_whole(len(old.special) + 1, input_size=size)
    made = {
        "cells": statistics.total_cells,
        "genes": len(table),
        "statistics": statistics.checksum,
        "target_sum": statistics.target_sum,
        "exact_medians": statistics.exact,
        "min_cells": int(min_cells),
        "version": version("scgeneformer"),
    }
    if base is not None:
        made["extends"] = old.checksum
    vocabulary = replace(
        old,
        tokens=np.append(old.tokens, old.n_tokens + np.arange(len(table))).astype(np.int32),
        ensembl_ids=np.append(old.ensembl_ids, table.index.to_numpy(str)),
        symbols=np.append(old.symbols, table["symbol"].to_numpy(str)),
        medians=np.append(old.medians, table["median"].to_numpy(np.float64)),
        input_size=int(size),
        encoding=old.encoding if encoding is None else encoding,
        record={**old.record, "vocabulary": made},
    )
    logg.info(f"vocabulary: {len(table):,} genes of {statistics.total_cells:,} cells, {vocabulary.n_tokens:,} tokens")
    return replace(vocabulary, aliases=_aliases(vocabulary, old, aliases)) if aliases is not None else vocabulary


def _without_genes(special_tokens: Sequence[str] | None, statistics: GeneStatistics) -> Vocabulary:
    """A vocabulary of special tokens."""
    names = SPECIAL_TOKENS if special_tokens is None else _special(special_tokens)
    return Vocabulary(
        tokens=np.empty(0, dtype=np.int32),
        ensembl_ids=np.empty(0, dtype=str),
        symbols=np.empty(0, dtype=str),
        medians=np.empty(0, dtype=np.float64),
        special={name: token for token, name in enumerate(names)},
        input_size=INPUT_SIZE,
        target_sum=float(statistics.target_sum),  # type: ignore[arg-type]
    )


def _with_context(old: Vocabulary, encoding: Encoding | None) -> Vocabulary:
    """The same with a special token for every value of the context that has none yet."""
    columns = {} if encoding is None else encoding.context
    names = [context_token(column, value) for column, values in columns.items() for value in values]
    new = [name for name in names if name not in old.special]
    return replace(old, special=old.special | {name: old.n_tokens + i for i, name in enumerate(new)})


def _special(names: Sequence[str]) -> list[str]:
    """Special tokens, checked, in the order of their tokens."""
    found = as_names(names)
    known = ", ".join(map(repr, SPECIAL_TOKENS))
    if unknown := [name for name in found if name not in SPECIAL_TOKENS]:
        raise DataError(f"special_tokens: {unknown[0]!r} is not known; there are {known}.")
    if len(set(found)) < len(found):
        raise DataError("special_tokens names one twice; each has one token.")
    if found[:1] != ["<pad>"] or "<mask>" not in found:
        raise DataError(
            f"special_tokens must begin with '<pad>', whose token is 0, and hold '<mask>'; it is {found}. "
            f"Leave it out for {known}."
        )
    return found


def _checked(
    base: ModelLike | Vocabulary, special_tokens: Sequence[str] | None, statistics: GeneStatistics
) -> Vocabulary:
    """The vocabulary to extend, if it can be extended by these statistics."""
    old = base if isinstance(base, Vocabulary) else load_vocabulary(base)
    if special_tokens is not None and set(as_names(special_tokens)) != set(old.special):
        raise DataError(
            f"base has the special tokens {sorted(old.special, key=old.special.__getitem__)}, which stay as they are; "
            "leave special_tokens out."
        )
    if old.target_sum != statistics.target_sum:
        raise DataError(
            f"The medians of base refer to {old.target_sum:g} counts per cell, the statistics to "
            f"{statistics.target_sum:g}. Take the statistics with target_sum={old.target_sum:g}."
        )
    return old


def _chosen(
    statistics: GeneStatistics,
    min_cells: int,
    genes: Sequence[str] | None,
    symbols: Mapping[str, str] | pd.Series | None,
) -> pd.DataFrame:
    """Symbol and median of the genes to take, by ID, ascending."""
    keep = statistics.n_detected >= min_cells
    if not keep.any():
        most = int(statistics.n_detected.max(initial=0))
        raise DataError(
            f"No gene has a count in min_cells={min_cells} cells; the most frequent one has in {most} of "
            f"{statistics.total_cells}. Lower min_cells, or take the statistics of more cells."
        )
    if genes is not None:
        keep &= _among(genes, statistics.gene_ids, keep)
    pairs = () if symbols is None else symbols.items()
    given = {normalise_name(str(key)): value for key, value in pairs if isinstance(value, str)}
    ids = statistics.gene_ids[keep].tolist()
    found = [given.get(gene, symbol) for gene, symbol in zip(ids, statistics.symbols[keep].tolist(), strict=True)]
    return pd.DataFrame({"symbol": found, "median": statistics.median[keep]}, index=pd.Index(ids, dtype=object))


def _among(genes: Sequence[str], ids: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Which IDs are among `genes`; those that are asked for and not to be had are told."""
    wanted = {normalise_name(name) for name in as_names(genes)}
    chosen = np.isin(ids, sorted(wanted))
    if absent := sorted(wanted - set(ids[seen].tolist())):
        some = f"{', '.join(map(repr, absent[:NAMED]))}{', ...' if len(absent) > NAMED else ''}"
        if not (chosen & seen).any():
            raise DataError(
                f"None of the {len(wanted)} genes= has enough cells with a count (such as {some}). They must be IDs as "
                f"in the statistics, such as {str(ids[seen][0])!r}."
            )
        logg.warning(f"{len(absent)} of genes= have a count in too few cells and are left out: {some}")
    return chosen


def _unknown_to(base: Vocabulary, table: pd.DataFrame) -> pd.DataFrame:
    """The genes that a vocabulary does not know, without the symbols that mean other genes there."""
    table = table[match_genes(table.index.tolist(), base) < 0]
    taken = table["symbol"].str.upper().isin(list(base.token_of_name))
    return table.assign(symbol=table["symbol"].where(~taken, ""))


def _aliases(vocabulary: Vocabulary, base: Vocabulary, aliases: Mapping[str, str] | pd.Series) -> dict[str, str]:
    """Aliases of the base, and those given that mean nothing there."""
    new = {normalise_name(str(key)): normalise_name(str(value)) for key, value in aliases.items()}
    known = {normalise_name(one): one for one in vocabulary.ensembl_ids.tolist()}
    if lost := [alias for alias, gene in new.items() if gene not in known]:
        raise DataError(
            f"aliases: {lost[0]!r} stands for {new[lost[0]]!r}, which is no ID of the vocabulary ({len(lost)} such). "
            "Leave them out, or lower min_cells."
        )
    return {**base.aliases, **{alias: known[gene] for alias, gene in new.items() if alias not in base.token_of_name}}
