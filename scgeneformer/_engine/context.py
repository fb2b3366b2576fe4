"""Does the contextual embedding of a gene differ between two sides, each made of replicates?

Of one gene, let x_r be the mean embedding over the cells of replicate r that contain it, scaled to unit length, and
c(r, s) = 1 − x_r·x_s the cosine distance of two replicates. With A the n replicates of the group and B the m of the
reference,

    between = mean of c(r, s) over r in A, s in B
    w_A     = mean of c(r, r') over r ≠ r' in A, and w_B likewise
    effect  = between − (w_A + w_B) / 2
    noise   = (w_A / n + w_B / m) / 2
    score   = effect / noise

Because the x are unit vectors, w_A is the unbiased variance of A (summed over the dimensions) and the effect is the
unbiased estimate of half the squared distance between what A and B would give with infinitely many replicates: 0 on
average if there is no difference, 1 − cosine of the two if the replicates of a side agree. The score plus one is
|mean A − mean B|² over its expectation without a difference (the Welch statistic summed over the dimensions). It has
no unit, which is what allows to pool it over genes.

The null: replicates trade places between A and B. All labelings if they are few, else random ones; the true labeling,
and for n = m its mirror image, are left out. A p-value is the share of (labeling, gene) pairs whose score reaches
that of the gene, over all genes with the same n and m. Everything follows from the cosines of the replicates of a
gene, a matrix (n + m) × (n + m): neither a second forward pass nor the embeddings are needed for a labeling.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy.stats import false_discovery_control

MIN_NOISE = 1e-10  # below it, replicates are the same up to rounding
BLOCK = 2**24  # numbers in the largest array of a block of genes


@dataclass(frozen=True, eq=False)
class Comparison:
    """Result of each gene, (n_genes,); NaN for genes with less than two replicates on either side.

    Parameters
    ----------
    effect
        Cosine distance between the sides, corrected for that within.
    score
        Effect over its noise.
    pvals, pvals_adj
        Of the pooled permutations, and after Benjamini and Hochberg.
    n_cells, n_cells_reference
        Cells with the gene.
    n_replicates
        Replicates of the group that count for the gene.
    n_labelings
        Most labelings of the null of any gene.
    """

    effect: np.ndarray
    score: np.ndarray
    pvals: np.ndarray
    pvals_adj: np.ndarray
    n_cells: np.ndarray
    n_cells_reference: np.ndarray
    n_replicates: np.ndarray
    n_labelings: int


def compare(
    group: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    *,
    min_cells: int = 1,
    n_permutations: int = 500,
    seed: int = 0,
) -> Comparison:
    """Compare the contextual embeddings of every gene between a group and a reference.

    Parameters
    ----------
    group, reference
        Sums of the embeddings, (n_replicates, n_genes, d), and the number of cells summed, (n_replicates, n_genes).
    min_cells
        Cells a replicate needs for a gene to count for it.
    n_permutations
        Labelings of the null, if there are more than that.
    seed
        Of the random labelings.
    """
    n_cells = [counts.sum(axis=0) for _, counts in (group, reference)]
    use = [counts >= max(1, min_cells) for _, counts in (group, reference)]
    n, m = (side.sum(axis=0) for side in use)
    effect, score, pvals, adjusted = (np.full(len(n), np.nan) for _ in range(4))
    most = 0
    for a, b in sorted({(a, b) for a, b in zip(n.tolist(), m.tolist(), strict=True) if min(a, b) > 1}):
        genes = np.flatnonzero((n == a) & (m == b))
        labels = labelings(a, b, n_permutations, seed)
        most = max(most, len(labels) - 1)
        null = np.empty((len(genes), len(labels) - 1))
        step = max(1, BLOCK // ((a + b) * max(group[0].shape[2], len(labels))))
        for start in range(0, len(genes), step):
            some = slice(start, start + step)
            cosines = _cosines(group, reference, use, genes[some], a, b)
            effects, scores = statistics(cosines, labels)
            effect[genes[some]], score[genes[some]] = effects[:, 0], scores[:, 0]
            null[some] = scores[:, 1:]
        pvals[genes] = pooled_pvalues(score[genes], null)
    tested = ~np.isnan(pvals)
    if tested.any():
        adjusted[tested] = false_discovery_control(pvals[tested], method="bh")
    return Comparison(effect, score, pvals, adjusted, n_cells[0], n_cells[1], n, most)


def labelings(n: int, m: int, n_permutations: int, seed: int) -> np.ndarray:
    """Ways to choose A from n + m replicates, (1 + n_labelings, n + m) of 0 and 1; the true one comes first."""
    true = np.arange(n + m) < n
    if n_labelings(n, m) <= n_permutations:
        chosen = combinations(range(n + m), n)
        others = np.array([np.isin(np.arange(n + m), c) for c in chosen])[1:]
        if n == m:
            others = others[others[:, 0]]  # one of each pair of mirror images
    else:
        rng = np.random.default_rng((seed, n, m))
        others = rng.permuted(np.tile(true, (n_permutations, 1)), axis=1)
        same = (others == true).all(axis=1) | ((others == ~true).all(axis=1) if n == m else False)
        others = others[~same]
    return np.vstack([true, others]).astype(np.float64)


def n_labelings(n: int, m: int) -> int:
    """Labelings other than the true one, and for n = m other than its mirror image."""
    return comb(n + m, n) // (2 if n == m else 1) - 1


def statistics(cosines: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effect and score of every gene under every labeling, (n_genes, n_labelings) each.

    Parameters
    ----------
    cosines
        Between the replicates of each gene, (n_genes, n + m, n + m), 1 on the diagonal.
    labels
        1 for replicates in A, 0 for those in B, (n_labelings, n + m).
    """
    n = labels[0].sum()
    m = labels.shape[1] - n
    in_a = np.einsum("gul,lu->gl", cosines @ labels.T, labels)  # sum over pairs within A
    across = cosines.sum(axis=2) @ labels.T - in_a
    in_b = cosines.sum(axis=(1, 2))[:, None] - in_a - 2 * across
    w_a = 1 - (in_a - n) / (n * (n - 1))
    w_b = 1 - (in_b - m) / (m * (m - 1))
    effect = 1 - across / (n * m) - (w_a + w_b) / 2
    noise = (w_a / n + w_b / m) / 2
    return effect, effect / np.maximum(noise, MIN_NOISE)


def pooled_pvalues(scores: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(1 + number of null scores that reach the score) / (1 + number of null scores)."""
    ordered = np.sort(null, axis=None)
    return (1 + len(ordered) - np.searchsorted(ordered, scores, side="left")) / (1 + len(ordered))


def _cosines(
    group: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    use: list[np.ndarray],
    genes: np.ndarray,
    n: int,
    m: int,
) -> np.ndarray:
    """Cosines between the n + m replicates that count for each of the genes, (n_genes, n + m, n + m)."""
    sides = []
    for (sums, _), used, size in ((group, use[0], n), (reference, use[1], m)):
        replicates = np.argsort(~used[:, genes], axis=0, kind="stable")[:size].T  # (n_genes, size)
        sides.append(sums[replicates, genes[:, None]])
    units = np.concatenate(sides, axis=1)  # (n_genes, n + m, d); the mean has the direction of the sum
    units /= np.linalg.norm(units, axis=2, keepdims=True)
    return units @ units.transpose(0, 2, 1)
