"""Which genes of a cell are masked together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary


def random_subsets(tokens: Tokens, n_subsets: int, seed: int, vocabulary: Vocabulary) -> np.ndarray:
    """Deal the genes of each cell at random into disjoint subsets of equal size (to within one).

    Every gene is hashed with the seed and with all tokens of its cell, and the genes are dealt out in the order of
    their hashes: the same cell gets the same subsets in whatever row, batch or data set it is.

    Returns
    -------
    Number of the subset of each token, (total,) int64; -1 for special tokens.
    """
    cell = np.repeat(np.arange(len(tokens)), tokens.lengths)
    position = np.arange(len(tokens.ids)) - tokens.offsets[cell]
    with np.errstate(over="ignore"):
        each = mix(tokens.ids.astype(np.uint64) * np.uint64(2**32) + position.astype(np.uint64))
        of_cell = np.zeros(len(tokens), dtype=np.uint64)
        np.add.at(of_cell, cell, each)
        key = mix(each ^ mix(of_cell + np.uint64(seed))[cell])
    order = np.lexsort((key, cell))  # within a cell by key
    gene = np.isin(tokens.ids, vocabulary.tokens)
    rank = np.cumsum(gene[order])
    before = np.concatenate([[0], rank])[tokens.offsets[:-1]]  # genes in the cells in front
    subset = np.empty(len(tokens.ids), dtype=np.int64)
    subset[order] = (rank - 1 - before[cell]) % n_subsets
    subset[~gene] = -1
    return subset


def masks_of_subsets(
    tokens: Tokens, n_subsets: int, n_passes: int, seed: int, vocabulary: Vocabulary
) -> Iterator[np.ndarray]:
    """Yield which tokens to mask in each of the first `n_passes` of `n_subsets` random subsets, (total,) bool."""
    subset = random_subsets(tokens, n_subsets, seed, vocabulary)
    yield from (subset == number for number in range(n_passes))


def masks_of_genes(tokens: Tokens, genes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield which tokens to mask so that each of `genes` is masked alone, (total,) bool."""
    yield from (tokens.ids == gene for gene in genes)


def mix(x: np.ndarray) -> np.ndarray:
    """Hash 64-bit numbers (the finaliser of splitmix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
