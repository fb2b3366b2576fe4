"""In-silico perturbations of one cell: a table of pure edits on its genes in rank order.

A cell is the ranked list of its genes (special tokens aside). An edit returns another list, and remembers for every
gene where it was before, so that its embedding before and after can be compared and, if asked for, its position held.

`delete` and `overexpress` are those of the reference (`perturber_utils.delete_indices`, `overexpress_tokens`), `set`,
`mask`, `pad` and `replace` those of Cellarium ML's `predict` (zeroed or raised counts, `feature_map`); `activate` and
`inhibit` are documented in the reference and implemented nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ENTERED = -1  # origin of a gene that was not in the cell


class RankedGenes(NamedTuple):
    """Genes of one cell from the first rank to the last.

    `ids` (n,) int32 are their tokens, `origin` (n,) int64 their ranks in the unedited cell or `ENTERED`, `values`
    (n,) float64 their expression in counts per 10,000 over their median; empty where no edit needs it.
    """

    ids: np.ndarray
    origin: np.ndarray
    values: np.ndarray

    def at(self, places: np.ndarray) -> RankedGenes:
        """The genes at some places, in that order."""
        return RankedGenes(
            self.ids[places], self.origin[places], self.values[places] if len(self.values) else NO_VALUES
        )


NO_VALUES = np.empty(0)


@dataclass(frozen=True)
class Edit:
    """One mode applied to one or several genes at once.

    Parameters
    ----------
    mode
        Name in `EDITS`.
    targets
        Tokens of the genes.
    to
        Rank, value or token of each target, as `Kind.to` says; empty for the default.
    """

    mode: str
    targets: tuple[int, ...]
    to: tuple[float, ...] = ()


class Kind(NamedTuple):
    """What there is to know about a mode.

    Parameters
    ----------
    function
        (genes, targets (k,) int32, to) -> genes.
    everywhere
        Applies also to cells that lack the gene.
    in_place
        Leaves all other genes at their ranks, or only closes gaps, so that positions can be held.
    to
        What `to` means: "rank", "value", "token", or "" where it has no meaning.
    needs_to
        Whether `to` must be given.
    """

    function: Callable[[RankedGenes, np.ndarray, Sequence[float]], RankedGenes]
    everywhere: bool = False
    in_place: bool = False
    to: str = ""
    needs_to: bool = False


def delete(genes: RankedGenes, targets: np.ndarray, to: Sequence[float] = ()) -> RankedGenes:
    """Remove the targets; all genes behind move up."""
    return genes.at(np.flatnonzero(~_are(genes.ids, targets)))


def overexpress(genes: RankedGenes, targets: np.ndarray, to: Sequence[float] = ()) -> RankedGenes:
    """Put the targets in front, in the order given; those that were not in the cell enter."""
    return _insert(genes, targets, np.arange(len(targets)))


def activate(genes: RankedGenes, targets: np.ndarray, to: Sequence[float] = ()) -> RankedGenes:
    """Move the targets up: by a quarter of the cell's genes, or to rank `to`; never down, nor beyond the first rank."""
    ranks = _ranks(genes.ids, targets)
    wanted = np.asarray(to, dtype=np.int64) if len(to) else ranks - _quarter(genes)
    return _insert(genes, targets, _places(np.clip(wanted, 0, ranks), ranks))


def inhibit(genes: RankedGenes, targets: np.ndarray, to: Sequence[float] = ()) -> RankedGenes:
    """Move the targets down: by a quarter of the cell's genes, or to rank `to`; never up, nor beyond the last rank.

    It is activation in the cell read from its end.
    """
    ranks, last = _ranks(genes.ids, targets), len(genes.ids) - 1
    wanted = np.asarray(to, dtype=np.int64) if len(to) else ranks + _quarter(genes)
    return _insert(genes, targets, last - _places(last - np.clip(wanted, ranks, last), last - ranks))


def set_value(genes: RankedGenes, targets: np.ndarray, to: Sequence[float]) -> RankedGenes:
    """Give the targets an expression value and rank all genes anew, ties by token; zero removes a gene."""
    left = delete(genes, targets)
    values = np.asarray(to, dtype=np.float64)
    kept = values > 0
    ids = np.concatenate([left.ids, targets[kept]]).astype(np.int32)
    origin = np.concatenate([left.origin, _origins(genes, targets[kept])])
    values = np.concatenate([left.values, values[kept]])
    return RankedGenes(ids, origin, values).at(np.lexsort((ids, -values)))


def replace(genes: RankedGenes, targets: np.ndarray, to: Sequence[float]) -> RankedGenes:
    """Put other tokens in the place of the targets; nothing moves."""
    ids = genes.ids.copy()
    ids[_ranks(ids, targets)] = np.asarray(to, dtype=np.int32)
    return genes._replace(ids=ids)


EDITS: dict[str, Kind] = {  # in the order in which several modes of one perturbation are applied
    "set": Kind(set_value, everywhere=True, to="value", needs_to=True),
    "delete": Kind(delete, in_place=True),
    "inhibit": Kind(inhibit, to="rank"),
    "activate": Kind(activate, to="rank"),
    "overexpress": Kind(overexpress, everywhere=True),
    "mask": Kind(replace, in_place=True, to="token"),  # `to` is filled in with the token of <mask> or <pad>
    "pad": Kind(replace, in_place=True, to="token"),
    "replace": Kind(replace, in_place=True, to="token", needs_to=True),
}


@dataclass(frozen=True, eq=False)
class Edited:
    """A cell after a perturbation.

    Parameters
    ----------
    ids
        Its gene tokens, cut to what the model takes, (m,) int32.
    origin
        Rank of each in the unedited cell, or `ENTERED`, (m,) int64.
    shared
        Places of genes that are unperturbed and were in the unedited cell, (s,) int64.
    n_original
        Genes of the unedited cell to compare with: its last ones are left out if others pushed them beyond the cut
        (the reference's `truncate_by_n_overflow`), so that their loss does not count as an effect.
    """

    ids: np.ndarray
    origin: np.ndarray
    shared: np.ndarray
    n_original: int


def perturb_cell(genes: RankedGenes, edits: Sequence[Edit], max_genes: int, refill: bool = False) -> Edited | None:
    """Apply all edits of one perturbation to one cell.

    Parameters
    ----------
    genes
        The cell.
    edits
        The edits, each gene in one of them.
    max_genes
        Genes that the model takes.
    refill
        Cut the cell to `max_genes` after the edits, not before, so that genes from beyond the cut can move in.

    Returns
    -------
    The perturbed cell, or None where the perturbation does not apply: a gene is not among the first `max_genes` and
    the mode does not bring it there, or no gene is left, in it or in the unedited cell to compare with.
    """
    genes = genes if refill else RankedGenes(*(array[:max_genes] for array in genes))
    window = genes.ids[:max_genes]
    targets = np.array([t for edit in edits for t in edit.targets], dtype=np.int32)
    present = np.array([t for edit in edits if not EDITS[edit.mode].everywhere for t in edit.targets], dtype=np.int32)
    if not len(window) or len(_find(window, present)) < len(present):
        return None
    shared_before = np.flatnonzero(~_are(window, targets))
    for edit in sorted(edits, key=lambda edit: _ORDER[edit.mode]):
        genes = EDITS[edit.mode].function(genes, np.array(edit.targets, dtype=np.int32), edit.to)
    overflow = 0 if refill else max(0, len(genes.ids) - max_genes)
    if not len(genes.ids) or overflow >= len(window):
        return None
    ids, origin = genes.ids[:max_genes], genes.origin[:max_genes]
    unperturbed = np.zeros(max(len(window), int(origin.max(initial=0)) + 1), dtype=bool)
    unperturbed[shared_before] = True
    shared = np.flatnonzero((origin >= 0) & unperturbed[origin])
    return Edited(ids, origin, shared, len(window) - overflow)


_ORDER = {mode: i for i, mode in enumerate(EDITS)}


def ranked(ids: np.ndarray, values: np.ndarray = NO_VALUES) -> RankedGenes:
    """Return the genes of an unedited cell."""
    return RankedGenes(ids, np.arange(len(ids)), values)


def _quarter(genes: RankedGenes) -> int:
    return max(1, len(genes.ids) // 4)


def _are(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Which of the genes are targets, (n,) bool."""
    return (ids[:, None] == targets).any(axis=1)


def _find(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Places of those targets that are there, in rank order."""
    return np.flatnonzero(_are(ids, targets))


def _ranks(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Place of each target, all of which are there, (k,) int64."""
    return (ids[:, None] == targets).argmax(axis=0)


def _origins(genes: RankedGenes, targets: np.ndarray) -> np.ndarray:
    """Origin of each target, `ENTERED` where it is not there, (k,) int64."""
    same = genes.ids[:, None] == targets
    return np.where(same.any(axis=0), genes.origin[same.argmax(axis=0)], ENTERED)


def _places(wanted: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """A place of its own for each target, (k,) int64: the first free one from the wanted one on, in order of the ranks.

    None is moved behind its rank: those that chose before it are no further down than their own ranks, so that its own
    is still free.
    """
    places = wanted.copy()
    taken: set[int] = set()
    for i in np.argsort(ranks).tolist():
        while places[i] in taken:
            places[i] += 1
        taken.add(int(places[i]))
    return places


def _insert(genes: RankedGenes, targets: np.ndarray, places: np.ndarray) -> RankedGenes:
    """Take the targets out, if they are there, and put them in at the given places, all different, of the new cell."""
    left = delete(genes, targets)
    n = len(left.ids) + len(targets)
    others = np.ones(n, dtype=bool)
    others[places] = False
    ids, origin = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int64)
    ids[places], ids[others] = targets, left.ids
    origin[places], origin[others] = _origins(genes, targets), left.origin
    return RankedGenes(ids, origin, NO_VALUES)
