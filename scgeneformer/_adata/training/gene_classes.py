"""Genes whose class a user gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.gene_choice import choose_genes
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgeneformer._adata.tokens import CellTokens


@dataclass(frozen=True, eq=False)
class GeneClasses:
    """Genes and their classes, by class and token.

    Parameters
    ----------
    classes
        Names of the classes.
    names
        Each gene as it was asked for, (n_genes,) str.
    tokens
        Its token, (n_genes,) int32.
    codes
        Number of its class, (n_genes,) int64.
    """

    classes: list[str]
    names: np.ndarray
    tokens: np.ndarray
    codes: np.ndarray

    def by_token(self, values: np.ndarray, n_tokens: int, fill: int) -> np.ndarray:
        """Values of the genes as a table over all tokens, (n_tokens,) int64, with `fill` elsewhere."""
        table = np.full(n_tokens, fill, dtype=np.int64)
        table[self.tokens] = values
        return table

    def seen(self, n_cells: np.ndarray) -> GeneClasses:
        """Only genes that are in some cell, (n_tokens,) cells of each token; says which are not."""
        there = n_cells[self.tokens] > 0
        if not there.all():
            absent = ", ".join(map(repr, self.names[~there].tolist()))
            logg.warning(f"{int((~there).sum())} of {len(there)} genes are in none of the cells and left out: {absent}")
        return GeneClasses(self.classes, self.names[there], self.tokens[there], self.codes[there])

    def check_sizes(self, least: int) -> None:
        """Refuse if a class has fewer than `least` genes."""
        sizes = np.bincount(self.codes, minlength=len(self.classes)).tolist()
        few = [f"{name!r} has {n}" for name, n in zip(self.classes, sizes, strict=True) if n < least]
        if few:
            raise DataError(
                f"Every class needs at least {least} genes that are in the cells (5, and one for each fold): "
                f"{', '.join(few)}. List more genes, take fewer folds, or join classes."
            )


def find_gene_classes(source: CellTokens, classes: Mapping[str, Sequence[str]]) -> GeneClasses:
    """Find the genes of each class among those of the counts; what is not found is named in a warning per class.

    Parameters
    ----------
    source
        The cells.
    classes
        Name of each class, and its genes: as in the index of `var`, in the column that maps the genes, or any symbol,
        alias or Ensembl ID the model knows.

    Raises
    ------
    DataError
        If there are fewer than two classes, none of the genes of a class is found, or a gene is in two classes.
    """
    _check(classes)
    owner: dict[int, tuple[str, str]] = {}
    found: list[tuple[int, int, str]] = []
    for code, (label, genes) in enumerate(classes.items()):
        chosen = choose_genes(source.counts.var, source.genes, source.vocabulary, genes, of=f" of {str(label)!r}")
        for gene, token in zip(*chosen, strict=True):
            other, alias = owner.setdefault(int(token), (str(label), gene))
            if other != str(label):
                raise DataError(
                    f"{alias!r} of class {other!r} and {gene!r} of class {str(label)!r} are one gene. Leave it "
                    "in one of the two classes."
                )
            found.append((code, int(token), gene))
    codes, tokens, names = zip(*sorted(found), strict=True)
    return GeneClasses([str(label) for label in classes], np.array(names), np.array(tokens, np.int32), np.array(codes))


def _check(classes: Any) -> None:
    example = 'classes={"sensitive": ["TP53", ...], "insensitive": ["ACTB", ...]}'
    if not isinstance(classes, Mapping):
        raise DataError(f"classes must name each class and list its genes, such as {example}.")
    if len(classes) < 2 or len({str(label) for label in classes}) < len(classes):
        named = ", ".join(map(repr, classes)) or "none"
        raise DataError(f"classes needs at least two classes of different names, such as {example}; it has {named}.")
