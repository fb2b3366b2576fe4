"""The genes of ``adata.var`` as the model knows them, wherever the counts are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._adata.gene_choice import choose_genes, first_of_name
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgeneformer._adata.counts import Counts
    from scgeneformer._adata.tokens import CellTokens


def tokens_of_var(source: CellTokens) -> np.ndarray:
    """Token of each gene of ``adata.var``, (n_vars,) int32; by name where the counts are those of ``adata.raw``.

    Raises as :func:`check_names` does.
    """
    counts = source.counts
    check_names(counts)
    if not counts.raw:
        return source.genes.tokens
    of_name = first_of_name(counts.var.index, source.genes.tokens.tolist())
    return np.array([of_name.get(name, -1) for name in counts.adata.var_names], dtype=np.int32)


def check_names(counts: Counts) -> None:
    """Refuse counts of genes none of which has a name of ``adata.var``, where the results go.

    Raises
    ------
    DataError
        If the counts are those of ``adata.raw``, and its genes have other names.
    """
    here, there = counts.adata.var_names, counts.var.index
    if counts.raw and len(here) and len(there) and not here.isin(there).any():
        raise DataError(
            f"No gene of adata.var ({here[0]!r}, ...) has a name that adata.raw has ({there[0]!r}, ...), and what is "
            "found by its counts goes to genes of the same name. Give adata.var_names and adata.raw names of one kind."
        )


def tokens_of_genes(source: CellTokens, genes: str | Sequence[str] | None) -> np.ndarray:
    """Tokens of the genes that are named, each once; of all that the counts hold if None."""
    if genes is None:
        return np.unique(source.genes.tokens[source.genes.tokens >= 0])
    return choose_genes(source.counts.var, source.genes, source.vocabulary, genes)[1]


class Spread:
    """Gives every gene of ``adata.var`` the result of its token.

    Parameters
    ----------
    slot_of_var
        Where the result of each gene is, (n_vars,) int64; -1 where there is none.
    min_cells
        Genes in fewer cells get NaN.
    """

    def __init__(self, slot_of_var: np.ndarray, min_cells: int) -> None:
        self.rows = np.flatnonzero(slot_of_var >= 0)
        self.slots = slot_of_var[self.rows]
        self.n_vars, self.min_cells = len(slot_of_var), min_cells

    def counts(self, n_cells: np.ndarray) -> np.ndarray:
        """Cells of each gene, (n_vars, n_groups) int32 from (n_groups, n_slots)."""
        spread = np.zeros((self.n_vars, len(n_cells)), dtype=np.int32)
        spread[self.rows] = n_cells[:, self.slots].T
        return spread

    def fill(self, out: np.ndarray, values: np.ndarray, n_cells: np.ndarray) -> np.ndarray:
        """Put (n_slots, d) into (n_vars, d), NaN where there are too few cells."""
        out[:] = np.nan
        enough = n_cells[self.slots] >= self.min_cells
        out[self.rows[enough]] = values[self.slots[enough]]
        return out
