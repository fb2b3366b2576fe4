"""What the screen of one cell does: which genes stand for all of them, and which whole cells it compares them with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable


class Interval(NamedTuple):
    """Perturbations of neighbouring ranks, between two reference cells.

    In `lower` the genes move as if the gene at `start` were perturbed, in `upper` as if the one at `stop` were. For a
    gene in between, all genes behind it stand as in `lower`, those in front of it as in `upper`, as far as they are in
    the interval; the others are interpolated.
    """

    rows: slice  # of the perturbations
    start: int  # first place
    stop: int  # behind the last place
    lower: int  # reference cell
    upper: int

    def along(self, places: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """How far from the lower to the upper reference cell the perturbed genes are, 0 to 1."""
        return (places - self.start).to(dtype) / (self.stop - self.start)


class Checks(NamedTuple):
    """A few perturbed cells, run as a whole: their rows, tokens and positions, each (c, n'), and which are genes."""

    rows: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    genes: torch.Tensor


@dataclass(frozen=True, eq=False)
class CellPlan:
    """Perturbations of genes of one cell, in the order of their places.

    Parameters
    ----------
    ids
        Tokens of the cell, (n,) int64.
    references
        Positions of the tokens in each reference cell, (n_references, n) int64; row `unperturbed` is the cell itself.
    unperturbed
        Row of the cell itself.
    intervals
        Perturbations by reference cells; together they are all.
    places
        Of the perturbed genes, (p,) int64.
    inserted
        Token that is put in front of all genes, (p,) int64; None in a deletion.
    sample
        Places of the carried genes, ascending, special tokens among them, (m,) int64.
    weights
        How many genes each stands for, 0 for the perturbed one, (p, m) float.
    positions
        Position of each in each perturbed cell, (p, m) int64.
    checks
        Perturbations that are also run exactly; None if there are none.
    n_lead, n_trail
        Special tokens in front and behind.
    """

    ids: torch.Tensor
    references: torch.Tensor
    unperturbed: int
    intervals: list[Interval]
    places: torch.Tensor
    inserted: torch.Tensor | None
    sample: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    checks: Checks | None
    n_lead: int
    n_trail: int

    @property
    def genes(self) -> torch.Tensor:
        """Which tokens are genes, (n,) bool."""
        place = torch.arange(len(self.ids), device=self.ids.device)
        return (place >= self.n_lead) & (place < len(self.ids) - self.n_trail)

    def mixture(self, interval: Interval, rows: slice, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of the lower and of the upper reference cell at some places, two (rows, places) tensors."""
        perturbed = self.places[rows, None]  # (r, 1)
        along = interval.along(perturbed, self.weights.dtype)
        inside = (places >= interval.start) & (places < interval.stop)  # (places,)
        upper = torch.where(inside, (places < perturbed).to(along.dtype), along)
        return 1 - upper, upper


class Mode(NamedTuple):
    """How far other genes move, those behind the perturbed one or those in front, and whether it moves to the front."""

    step: int
    behind: bool
    inserts: bool


MODES = {"delete": Mode(-1, True, False), "overexpress": Mode(1, False, True)}


def make_plan(
    ids: np.ndarray,
    targets: np.ndarray,
    *,
    mode: str,
    hold: bool,
    n_lead: int,
    n_trail: int,
    n_carried: int,
    n_pilots: int,
    n_checks: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[CellPlan, np.ndarray]:
    """Plan the perturbations of `targets`; returns also their order, (p,) int64.

    Raises
    ------
    DataError
        If a gene is not in the cell, if the mode is unknown or cannot hold positions, or if a number of genes or
        pilots is too small.
    """
    if mode not in MODES:
        raise DataError(f"mode={mode!r} cannot be screened; those that can are {', '.join(map(repr, MODES))}.")
    if hold and MODES[mode].inserts:
        raise DataError(f"mode={mode!r} moves genes: positions cannot be held. Take positions='shift'.")
    if n_carried < 1 or n_pilots < 1 or n_checks < 0:
        raise DataError(
            f"n_carried={n_carried} and n_pilots={n_pilots} must be at least 1, n_checks={n_checks} at least 0."
        )
    n, end = len(ids), len(ids) - n_trail
    places = _places(ids, targets, n_lead, end)
    order = np.argsort(places, kind="stable")
    places, targets = places[order], targets[order]
    sample, stand_for = draw_genes(ids, n_carried, n_lead, n_trail, seed)
    edges = np.unique(np.linspace(n_lead, end, (1 if hold else n_pilots) + 1).round().astype(np.int64))
    move = _held if hold else _mover(MODES[mode], n_lead)
    everywhere = np.arange(n)
    cells = np.minimum([move(everywhere, edge) for edge in edges], n - 1)  # the last gene never moves back
    references, which = np.unique(np.vstack([everywhere, cells]), axis=0, return_inverse=True)
    which = which.ravel()  # numpy 2.0 gives it another shape

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(device)

    checks = _checks(ids, places, targets, MODES[mode], n_lead, n_trail, move, 0 if hold else n_checks)
    plan = CellPlan(
        ids=tensor(ids.astype(np.int64)),
        references=tensor(references),
        unperturbed=int(which[0]),
        intervals=_intervals(places, edges, which[1:]),
        places=tensor(places),
        inserted=tensor(targets.astype(np.int64)) if MODES[mode].inserts else None,
        sample=tensor(sample),
        weights=tensor(stand_for * (sample != places[:, None])).to(dtype),
        positions=tensor(move(sample, places[:, None])),
        checks=Checks(*map(tensor, checks)) if checks else None,
        n_lead=n_lead,
        n_trail=n_trail,
    )
    return plan, order


def draw_genes(ids: np.ndarray, n_carried: int, n_lead: int, n_trail: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw genes at equal distances of rank from a random start, the special tokens in addition.

    The start depends on the seed and on all tokens of the cell: not on the batch, nor on the cell's row.

    Returns
    -------
    Places (m,) int64, ascending, and how many tokens each stands for, (m,) float64.
    """
    n, n_genes = len(ids), len(ids) - n_lead - n_trail
    digest = hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes() + str(seed).encode()).digest()
    start = int.from_bytes(digest[:8], "little") / 2**64
    m = min(n_carried, n_genes)
    drawn = np.minimum(np.floor((np.arange(m) + start) * n_genes / m).astype(np.int64), n_genes - 1) + n_lead
    places = np.concatenate([np.arange(n_lead), drawn, np.arange(n - n_trail, n)])
    return places, np.where((places >= n_lead) & (places < n - n_trail), n_genes / m, 1.0)


def _places(ids: np.ndarray, targets: np.ndarray, n_lead: int, end: int) -> np.ndarray:
    """Place of each target, (p,) int64."""
    where = {int(token): place for place, token in enumerate(ids[n_lead:end].tolist(), start=n_lead)}
    if absent := [int(token) for token in targets if int(token) not in where]:
        raise DataError(f"Tokens that are not in the cell cannot be screened: {', '.join(map(str, absent[:10]))}.")
    return np.array([where[int(token)] for token in targets], dtype=np.int64)


def _checks(
    ids: np.ndarray,
    places: np.ndarray,
    targets: np.ndarray,
    mode: Mode,
    n_lead: int,
    n_trail: int,
    move: Callable[[np.ndarray, np.ndarray], np.ndarray],
    n_checks: int,
) -> tuple[np.ndarray, ...] | None:
    """Fields of :class:`Checks` for perturbations at equal distances."""
    n, count = len(ids), min(n_checks, len(places))
    if not count:
        return None
    rows = np.floor((np.arange(count) + 0.5) * len(places) / count).astype(np.int64)
    everywhere = np.arange(n)
    left = np.stack([everywhere[everywhere != place] for place in places[rows]])  # (c, n − 1)
    tokens, positions = ids[left], np.take_along_axis(move(everywhere, places[rows, None]), left, axis=1)
    genes = (everywhere >= n_lead) & (everywhere < n - n_trail)
    genes = genes[left[0]]  # the same for all: one gene is missing, wherever it was
    if mode.inserts:  # behind the others: attention does not depend on the order, only on the positions
        tokens = np.column_stack([tokens, targets[rows]])
        positions = np.column_stack([positions, np.full(count, n_lead)])
        genes = np.append(genes, True)
    return rows, tokens.astype(np.int64), positions, genes


def _held(places: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
    """Positions of the other tokens where none moves."""
    return np.broadcast_to(places, np.broadcast_shapes(np.shape(places), np.shape(perturbed)))


def _mover(mode: Mode, n_lead: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Function (places, perturbed place) -> positions of the other tokens."""

    def move(places: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
        if mode.behind:
            return np.where((places >= perturbed) & (places > n_lead), places + mode.step, places)
        return np.where((places < perturbed) & (places >= n_lead), places + mode.step, places)

    return move


def _intervals(places: np.ndarray, edges: np.ndarray, references: np.ndarray) -> list[Interval]:
    """Cut the perturbations, sorted by place, at the edges."""
    cuts = np.searchsorted(places, edges)
    bounds = zip(cuts[:-1], cuts[1:], edges[:-1], edges[1:], references[:-1], references[1:], strict=False)
    return [Interval(slice(int(a), int(b)), *map(int, rest)) for a, b, *rest in bounds if b > a]
