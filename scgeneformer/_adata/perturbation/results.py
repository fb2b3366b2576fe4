"""From the results of perturbations, cell by cell and column by column, to `layers`, `obsm` and `varm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from scgeneformer._adata.groups import Groups


class Gathered:
    """All results of a run.

    Parameters
    ----------
    shape
        Cells and genes of the data set.
    n_tokens
        Of the vocabulary: columns from here on are combinations.
    n_combinations
        Number of combinations.
    tokens_of_var
        Token of each gene, (n_vars,) int32, -1 for none.
    """

    def __init__(self, shape: tuple[int, int], n_tokens: int, n_combinations: int, tokens_of_var: np.ndarray) -> None:
        self.shape, self.n_tokens, self.n_combinations = shape, n_tokens, n_combinations
        known = np.flatnonzero(tokens_of_var >= 0)
        self._genes = known[np.argsort(tokens_of_var[known], kind="stable")]  # by token: genes that share one in a row
        self._tokens = tokens_of_var[self._genes]
        self._parts: list[dict[str, np.ndarray]] = []

    def add(self, part: dict[str, np.ndarray]) -> None:
        """Take the results of a block."""
        self._parts.append(part)

    def column(self, name: str) -> np.ndarray:
        """One array of all blocks, one behind the other."""
        return np.concatenate([part[name] for part in self._parts])

    def has(self, name: str) -> bool:
        """Whether something of that name was measured."""
        return bool(self._parts) and name in self._parts[0]

    def finish(self) -> None:
        """Order all results; call once, when they are complete."""
        self.cell, self.column_of = self.column("cell"), self.column("column")
        self.used = set(np.unique(self.column_of).tolist())
        singles = np.flatnonzero(self.column_of < self.n_tokens)
        first = np.searchsorted(self._tokens, self.column_of[singles], side="left")
        n_genes = np.searchsorted(self._tokens, self.column_of[singles], side="right") - first
        entry = np.repeat(singles, n_genes)
        within = np.arange(len(entry)) - np.repeat(np.cumsum(n_genes) - n_genes, n_genes)
        gene = self._genes[np.repeat(first, n_genes) + within]
        order = np.lexsort((gene, self.cell[entry]))
        self._entry, self._gene = entry[order], gene[order]
        self._indptr = np.searchsorted(self.cell[self._entry], np.arange(self.shape[0] + 1))
        self._combined = np.flatnonzero(self.column_of >= self.n_tokens)

    def layer(self, values: np.ndarray) -> sp.csr_matrix:
        """Values of the perturbations of one gene, one for each result, at cell and gene, zeros stored."""
        data = values[self._entry].astype(np.float32)
        return sp.csr_matrix((data, self._gene, self._indptr), shape=self.shape)

    def combined(self, values: np.ndarray) -> np.ndarray:
        """Values of the combinations, (n_obs, n_combinations, ...) float32, NaN where they do not apply."""
        found = np.full((self.shape[0], self.n_combinations, *values.shape[1:]), np.nan, dtype=np.float32)
        found[self.cell[self._combined], self.column_of[self._combined] - self.n_tokens] = values[self._combined]
        return found

    def of_columns(self, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Values of some columns, (n_obs, n_columns, ...) float32, NaN where the perturbation does not apply."""
        found = np.full((self.shape[0], len(columns), *values.shape[1:]), np.nan, dtype=np.float32)
        place = np.searchsorted(columns, self.column_of)
        there = np.flatnonzero(np.isin(self.column_of, columns))
        found[self.cell[there], place[there]] = values[there]
        return found

    def effects(self, layer: int, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, standard deviation and number of cells of the shift of each gene under some perturbations.

        Parameters
        ----------
        layer
            Hidden layer.
        columns
            The perturbations, ascending.

        Returns
        -------
        (n_vars, n_columns) each: float32, NaN where no cell has both; float32 with ``ddof=1``, NaN below two cells;
        int32.
        """
        shape = (len(columns), self.n_tokens)
        n, total, square = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for part in self._parts:
            column, token = np.divmod(part[f"pair_L{layer}"], self.n_tokens)
            kept = np.isin(column, columns)
            at = (np.searchsorted(columns, column[kept]), token[kept])
            n[at] += part[f"n_L{layer}"][kept]
            total[at] += part[f"sum_L{layer}"][kept]
            square[at] += part[f"square_L{layer}"][kept]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / n
            spread = np.where(n > 1, np.sqrt(np.maximum(square - n * mean**2, 0) / (n - 1)), np.nan)
        return self._spread(mean, "f4"), self._spread(spread, "f4"), self._spread(n, "i4")

    def _spread(self, by_token: np.ndarray, dtype: str) -> np.ndarray:
        """From columns × tokens to genes × columns."""
        found = np.zeros((self.shape[1], len(by_token)), dtype=dtype)
        if dtype == "f4":
            found[:] = np.nan
        found[self._genes] = by_token[:, self._tokens].T
        return found


def group_means(layer: sp.csr_matrix, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the cells of each group in which the perturbation applies, and their number.

    Returns
    -------
    (n_vars, n_groups) each: float32, NaN where there is no cell, and int32.
    """
    labelled = np.flatnonzero(groups.codes >= 0)
    shape = (len(groups.names), len(groups.codes))
    member = sp.csr_matrix((np.ones(len(labelled)), (groups.codes[labelled], labelled)), shape=shape)
    there = sp.csr_matrix((np.ones(layer.nnz), layer.indices, layer.indptr), shape=layer.shape)
    n_cells, sums = (member @ there).toarray().T, (member @ layer.astype(np.float64)).toarray().T
    with np.errstate(invalid="ignore"):
        return (sums / n_cells).astype(np.float32), n_cells.astype(np.int32)
