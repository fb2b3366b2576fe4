"""Totals of every gene over cells that come in blocks: cells with a count, mean, sum of squares, and all values."""

from __future__ import annotations

import numba as nb
import numpy as np
import scipy.sparse as sp

from scgeneformer._engine.statistics.value_counts import ValueCounts


class GeneStream:
    """Totals of genes over the cells seen so far.

    Values are counts x `target_sum` / total of the cell over all its columns. Means and sums of squares are float64,
    taken within a block about its own mean and merged as Chan, Golub and LeVeque (1983) do: no difference of large
    numbers anywhere.

    Parameters
    ----------
    gene_of_column
        Number of the gene in each column, (n_columns,); -1 for columns that count for the total of the cell only.
        Columns of one gene are added up, as where cells are encoded.
    n_genes
        Number of genes.
    target_sum
        Total of every cell; None leaves the counts as they are.
    max_values
        Most different values that are kept as they are.
    """

    def __init__(self, gene_of_column: np.ndarray, n_genes: int, target_sum: float | None, max_values: int) -> None:
        self.gene_of_column, self.together = _one_column_each(gene_of_column.astype(np.int64), n_genes)
        self.target_sum = np.nan if target_sum is None else float(target_sum)
        self.n_cells = 0
        self.n_detected = np.zeros(n_genes, dtype=np.int64)
        self.mean, self.squares = np.zeros(n_genes), np.zeros(n_genes)
        self.values = ValueCounts(max_values)

    def add(self, counts: sp.csr_matrix) -> None:
        """Add cells, (n, n_columns) CSR without duplicate entries; explicit zeros are ignored."""
        if self.together is not None:
            counts = (counts.astype(np.float64) @ self.together).tocsr()
        n = counts.shape[0]
        keys, detected, mean, squares = _totals(
            counts.data, counts.indices, counts.indptr, self.gene_of_column, len(self.mean), self.target_sum
        )
        self.mean, self.squares = merge_moments(self.n_cells, self.mean, self.squares, n, mean, squares)
        self.n_cells += n
        self.n_detected += detected
        self.values.add(keys)


def _one_column_each(gene_of_column: np.ndarray, n_genes: int) -> tuple[np.ndarray, sp.csr_matrix | None]:
    """Gene of each column once those of one gene are added up, and the matrix that does so, None if none has two."""
    known = gene_of_column[gene_of_column >= 0]
    if len(np.unique(known)) == len(known):
        return gene_of_column, None
    n = len(gene_of_column)
    column = np.where(gene_of_column >= 0, gene_of_column, n_genes)  # all the unknown ones end up in the last column
    together = sp.csr_matrix((np.ones(n), (np.arange(n), column)), shape=(n, n_genes + 1))
    return np.append(np.arange(n_genes), -1), together


def merge_moments(n_a, mean_a, squares_a, n_b, mean_b, squares_b):
    """Mean, and sum of squares about it, of two sets together, from those of each; 0 where both are empty."""
    n = np.maximum(n_a + n_b, 1)
    apart = mean_b - mean_a
    return mean_a + apart * (n_b / n), squares_a + squares_b + apart**2 * (n_a * (n_b / n))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _totals(data, indices, indptr, gene_of_column, n_genes, target_sum):  # pragma: no cover  compiled
    """Keys of all values; per gene the cells with a count, the mean and the sum of squares about it, over all cells."""
    n_cells = len(indptr) - 1
    n = 0
    scale = np.ones(n_cells)
    detected, mean, squares = np.zeros(n_genes, np.int64), np.zeros(n_genes), np.zeros(n_genes)
    for cell in range(n_cells):
        total = 0.0
        for i in range(indptr[cell], indptr[cell + 1]):
            total += data[i]
        if not np.isnan(target_sum):
            scale[cell] = target_sum / total
        for i in range(indptr[cell], indptr[cell + 1]):
            gene = gene_of_column[indices[i]]
            if data[i] > 0 and gene >= 0:
                detected[gene] += 1
                mean[gene] += data[i] * scale[cell]
                n += 1
    mean /= max(n_cells, 1)
    genes, values, n = np.empty(n, np.uint64), np.empty(n, np.float32), 0
    for cell in range(n_cells):
        for i in range(indptr[cell], indptr[cell + 1]):
            gene = gene_of_column[indices[i]]
            if data[i] > 0 and gene >= 0:
                value = data[i] * scale[cell]
                squares[gene] += (value - mean[gene]) ** 2
                genes[n] = gene
                values[n] = value
                n += 1
    squares += (n_cells - detected) * mean**2
    return (genes << np.uint64(32)) | values.view(np.uint32), detected, mean, squares
