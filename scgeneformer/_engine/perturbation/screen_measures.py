"""What the screen estimates: the shift of a cell, and its shift towards states, from carried genes and whole cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import normalize

from scgeneformer._engine.perturbation.screen_reference import IntervalSums

if TYPE_CHECKING:
    from collections.abc import Callable

    from scgeneformer._engine.perturbation.screen_plan import CellPlan


def _genes(whole: torch.Tensor, carried: torch.Tensor, plan: CellPlan) -> torch.Tensor:
    """1 − mean cosine over the unperturbed genes, (p,)."""
    units = normalize(whole, dim=-1)
    known = (units - units[plan.unperturbed]).square().sum(dim=-1, keepdim=True) / 2  # 1 − cosine, without cancellation
    found = (normalize(_sampled(carried, plan), dim=-1) - units[plan.unperturbed, plan.sample]).square()
    total = _sum_over_genes(known.double(), found.sum(dim=-1, keepdim=True).double() / 2, plan)[:, 0]
    return (total / _or_nan(plan.genes.sum() - 1)).clamp(min=0)


def _first(whole: torch.Tensor, carried: torch.Tensor, plan: CellPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """First token of the unperturbed cell (d,) and of each perturbed one (p, d), float64."""
    return whole[plan.unperturbed, 0].double(), carried[:, 0].double()


def _means(whole: torch.Tensor, carried: torch.Tensor, plan: CellPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over all genes of the unperturbed cell (d,) and of each perturbed one (p, d), float64."""
    whole = whole.double()
    cell = whole[plan.unperturbed]
    sampled = _sampled(carried, plan).double() - cell[plan.sample]
    change = _sum_over_genes(whole - cell, sampled, plan)
    n, total = plan.genes.sum(), cell[plan.genes].sum(dim=0)
    after = total + change - cell[plan.places]
    if plan.inserted is not None:
        return total / n, (after + carried[:, -1].double()) / n
    return total / n, after / _or_nan(n - 1)


def _sum_over_genes(known: torch.Tensor, found: torch.Tensor, plan: CellPlan) -> torch.Tensor:
    """Sum over all unperturbed genes of a quantity that is zero in the unperturbed cell, (p, f) float64.

    Parameters
    ----------
    known
        Its values in the whole cells, (r, n, f) float64.
    found
        Its values for the carried genes, (p, m, f) float64.
    plan
        Of the cell.
    """
    known = known * plan.genes[:, None]
    found = found * plan.genes[plan.sample, None]
    result = found.new_empty(len(found), found.shape[-1])
    for interval in plan.intervals:
        rows, inside = interval.rows, slice(interval.start, interval.stop)
        pair = [known[interval.lower], known[interval.upper]]  # each (n, f)
        sums = IntervalSums(interval, *((x.sum(dim=0) - x[inside].sum(dim=0), x[inside]) for x in pair))
        weights = plan.weights[rows].double()
        shares = plan.mixture(interval, rows, plan.sample)
        estimate = (weights[..., None] * found[rows]).sum(dim=1)
        expected = sum((weights * share) @ x[plan.sample] for share, x in zip(shares, pair, strict=True))
        result[rows] = sums.without(plan.places[rows]) + estimate - expected
    return result


def _or_nan(count: torch.Tensor) -> torch.Tensor:
    """NaN where nothing is left to be averaged."""
    return torch.where(count > 0, count, torch.nan)


def _sampled(carried: torch.Tensor, plan: CellPlan) -> torch.Tensor:
    """The carried genes without an inserted one, (p, m, d)."""
    return carried[:, : len(plan.sample)]


def _pool_first(hidden: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
    return hidden[:, 0].double()


def _pool_mean(hidden: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
    return hidden[:, genes].double().mean(dim=1)


class Measure(NamedTuple):
    """How a cell is compared.

    `cell(whole, carried, plan)` estimates its embedding before (d,) and after each perturbation (p, d); `pool(hidden,
    genes)` gives the same embedding of whole cells (c, n, d), (n,) bool -> (c, d). `shift(whole, carried, plan)`
    estimates the shift (p,) where that is not 1 − cosine of the embeddings.
    """

    cell: Callable[[torch.Tensor, torch.Tensor, CellPlan], tuple[torch.Tensor, torch.Tensor]]
    pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    shift: Callable[[torch.Tensor, torch.Tensor, CellPlan], torch.Tensor] | None = None


MEASURES = {
    "genes": Measure(_means, _pool_mean, _genes),
    "cls": Measure(_first, _pool_first),
    "mean": Measure(_means, _pool_mean),
}
