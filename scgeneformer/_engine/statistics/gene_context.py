"""Does the contextual embedding of a gene differ between two sides, each made of replicates?

Of one gene, let x_r be the mean embedding over the cells of replicate r that contain it, scaled to unit length. With A
the n replicates of the group, B the m of the reference, and w the variance of a side summed over the dimensions,

    w_A    = Σ |x_r - mean A|² / (n - 1) over r in A, and w_B likewise
    noise  = (w_A / n + w_B / m) / 2
    effect = |mean A - mean B|² / 2 - noise
    score  = effect / noise

Because the x are unit vectors, w_A is the mean cosine distance of two replicates of A, and the effect is the mean
distance of one of A and one of B less (w_A + w_B) / 2: 0 on average if there is no difference, 1 - cosine if the
replicates of a side agree. The score plus one is |mean A - mean B|² over its expectation without a difference (the
Welch statistic summed over the dimensions). It has no unit, which is what allows to pool it over genes.

The null. Without a difference all x_r are the same vector plus noise, that of A with ρ times the variance of that of B.
The n + m - 1 contrasts

    (mean A - mean B) / √(ρ/n + 1/m),   n - 1 orthonormal ones within A / √ρ,   m - 1 within B

are then vectors of one distribution, independent if it is normal, and turning them into each other by a random rotation
gives data that are as likely as those at hand (rotation test: Langsrud 2005, Wu et al. 2010). For ρ = 1 replicates that
trade places between A and B are a special case; where a side scatters more than the other, traded places would mix what
the true labels keep apart, and rotations do not. ρ is the ratio of Σ w_A to Σ w_B over the genes.

A p-value is the share of (rotation, gene) pairs whose score reaches that of the gene, over all genes with the same n
and m. A gene with a large difference has large scores under rotation, too: those found in a first round are left out of
the null of the second. Everything follows from the products of the contrasts of a gene, a matrix (n + m - 1)²: neither
a second forward pass nor the embeddings are needed for a rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import block_diag, helmert

from scgeneformer._engine.statistics.rank_tests import adjust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIN_NOISE = 1e-10  # below it, replicates are the same up to rounding
ROUNDING = 1e-28  # squared distances of unit vectors below this are errors of rounding
BLOCK = 2**24  # numbers in the largest array of a block of genes or rotations
FDR = 0.05  # at which genes are left out of the null

Side = tuple[np.ndarray, np.ndarray]


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
        Of the pooled rotations, and after Benjamini and Hochberg.
    n_cells, n_cells_reference
        Cells with the gene.
    n_replicates
        Replicates of the group that count for the gene.
    """

    effect: np.ndarray
    score: np.ndarray
    pvals: np.ndarray
    pvals_adj: np.ndarray
    n_cells: np.ndarray
    n_cells_reference: np.ndarray
    n_replicates: np.ndarray


def compare(group: Side, reference: Side, *, min_cells: int = 1, n_rotations: int = 500, seed: int = 0) -> Comparison:
    """Compare the contextual embeddings of every gene between a group and a reference.

    Parameters
    ----------
    group, reference
        Sums of the embeddings, (n_replicates, n_genes, d), and the number of cells summed, (n_replicates, n_genes).
    min_cells
        Cells a replicate needs for a gene to count for it.
    n_rotations
        Random rotations of the null.
    seed
        Of the rotations.
    """
    n_cells = [counts.sum(axis=0) for _, counts in (group, reference)]
    use = [counts >= max(1, min_cells) for _, counts in (group, reference)]
    n, m = (side.sum(axis=0) for side in use)
    effect, score, pvals = (np.full(len(n), np.nan) for _ in range(3))
    for a, b in sorted({(a, b) for a, b in zip(n.tolist(), m.tolist(), strict=True) if min(a, b) > 1}):
        genes = np.flatnonzero((n == a) & (m == b))
        products = partial(_products, group, reference, use, genes, a, b)
        observed = np.concatenate([np.diagonal(some, axis1=1, axis2=2) for some in products()])
        squares = np.array([observed[:, 0], observed[:, 1:a].mean(axis=1), observed[:, a:].mean(axis=1)])
        effect[genes], score[genes] = statistics(squares, a, b)
        pvals[genes] = pvalues(score[genes], _null(products, squares, a, b, n_rotations, seed))
    return Comparison(effect, score, pvals, adjust(pvals), n_cells[0], n_cells[1], n)


def statistics(squares: np.ndarray, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Effect and score from the squared distance of the means, w_A and w_B, (3, ...)."""
    apart, w_a, w_b = np.where(squares < ROUNDING, 0, squares)
    noise = (w_a / n + w_b / m) / 2
    effect = apart / 2 - noise
    return effect, effect / np.maximum(noise, MIN_NOISE)


def contrasts(n: int, m: int) -> np.ndarray:
    """Weights of the replicates: difference of the means, n - 1 within A, m - 1 within B; (n + m - 1, n + m)."""
    difference = np.repeat([1 / n, -1 / m], [n, m])
    return np.vstack([difference, block_diag(helmert(n), helmert(m))])


def rotations(n: int, m: int, ratio: float, n_rotations: int, rng: np.random.Generator) -> np.ndarray:
    """Quadratic forms that turn the contrasts at random, and give what :func:`statistics` needs.

    Of products P between contrasts, Σ P * form is the squared distance of the means, w_A and w_B after the rotation.

    Parameters
    ----------
    n, m
        Replicates of A and B.
    ratio
        Variance of A over that of B, ρ.

    Returns
    -------
    (3, n_rotations, n + m - 1, n + m - 1)
    """
    variance = np.repeat([ratio / n + 1 / m, ratio, 1], [1, n - 1, m - 1])  # of the contrasts, B having 1
    # the first n rows of a random orthonormal matrix, as columns, applied to contrasts of variance 1
    turned = np.linalg.qr(rng.normal(size=(n_rotations, n + m - 1, n)))[0] / np.sqrt(variance)[:, None]
    first, others = turned[:, :, :1], turned[:, :, 1:]
    apart, in_a = first @ first.transpose(0, 2, 1), others @ others.transpose(0, 2, 1)
    in_b = np.diag(1 / variance) - apart - in_a  # rows of an orthonormal matrix: all together make the identity
    return np.stack([apart * variance[0], in_a * ratio / (n - 1), in_b / (m - 1)])


def pvalues(scores: np.ndarray, null: np.ndarray) -> np.ndarray:
    """P-values of the pooled null of all genes, then of that of the genes that these have not found.

    Parameters
    ----------
    scores
        Of the genes, (n_genes,).
    null
        Of the same genes under rotations, (n_genes, n_rotations).
    """
    found = pooled_pvalues(scores, null)
    unchanged = adjust(found) >= FDR
    return pooled_pvalues(scores, null[unchanged]) if unchanged.any() else found


def pooled_pvalues(scores: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(1 + number of null scores that reach the score) / (1 + number of null scores)."""
    ordered = np.sort(null, axis=None)
    return (1 + len(ordered) - np.searchsorted(ordered, scores, side="left")) / (1 + len(ordered))


def _null(
    products: Callable[[], Iterator[np.ndarray]], squares: np.ndarray, n: int, m: int, n_rotations: int, seed: int
) -> np.ndarray:
    """Scores of all genes under random rotations, (n_genes, n_rotations)."""
    w_a, w_b = np.maximum(squares[1:].mean(axis=1), MIN_NOISE)
    rng = np.random.default_rng((seed, n, m))
    null = np.empty((squares.shape[1], n_rotations))
    step = max(1, BLOCK // max((n + m) ** 2, squares.shape[1]))
    for start in range(0, n_rotations, step):
        forms = rotations(n, m, w_a / w_b, min(step, n_rotations - start), rng)
        row = 0
        for some in products():
            turned = np.tensordot(forms, some, axes=((2, 3), (1, 2)))  # (3, rotations, genes)
            scores = statistics(turned, n, m)[1].T
            null[row : row + len(some), start : start + scores.shape[1]] = scores
            row += len(some)
    return null


def _products(
    group: Side, reference: Side, use: list[np.ndarray], genes: np.ndarray, n: int, m: int
) -> Iterator[np.ndarray]:
    """Products between the contrasts of each of the genes, block by block, (n_genes, n + m - 1, n + m - 1)."""
    weights = contrasts(n, m)
    step = max(1, BLOCK // ((n + m) * max(n + m, group[0].shape[2])))
    for start in range(0, len(genes), step):
        some = genes[start : start + step]
        sides = []
        for (sums, _), used, size in ((group, use[0], n), (reference, use[1], m)):
            replicates = np.argsort(~used[:, some], axis=0, kind="stable")[:size].T  # those that count, (n_some, size)
            sides.append(sums[replicates, some[:, None]])
        units = np.concatenate(sides, axis=1)  # (n_some, n + m, d); the mean has the direction of the sum
        units /= np.linalg.norm(units, axis=2, keepdims=True)
        contrasted = weights @ units
        yield contrasted @ contrasted.transpose(0, 2, 1)
