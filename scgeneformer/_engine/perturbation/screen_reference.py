"""Sums over all genes of a perturbed cell, as far as the whole reference cells tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from scgeneformer._engine.perturbation.screen_plan import CellPlan, Interval


class KnownAttention:
    """What the whole cells tell about the attention of the carried genes in one block.

    Parameters
    ----------
    weights
        Attention of the carried genes of the unperturbed cell to the genes of each whole cell, not normalised beyond
        the unperturbed cell, (r, h, m, n).
    values
        Values with a one behind, (r, h, n, d_head + 1).
    keys
        Of the unperturbed cell, (h, n, d_head).
    top
        Logarithm of the sum of its exponentials, (h, m, 1).
    plan
        Of the cell.
    """

    def __init__(self, weights, values, keys, top, plan: CellPlan) -> None:
        self.weights, self.values, self.keys, self.top, self.plan = weights, values, keys, top, plan
        self.base = weights[plan.unperturbed] @ values[plan.unperturbed]  # (h, m, d_head + 1)

    def enter(self, interval: Interval) -> None:
        """Prepare the sums of an interval."""
        self.interval, plan = interval, self.plan
        self.moves = interval.lower != interval.upper or interval.lower != plan.unperturbed
        sampled = [self._terms(row, plan.sample) for row in (interval.lower, interval.upper)]
        self.sampled = torch.cat([terms.movedim(2, 0) for terms in sampled])  # (2 m, h, m, d_head + 1)
        if self.moves:
            self.sums = IntervalSums(interval, *(self._differences(row) for row in (interval.lower, interval.upper)))

    def rest(self, rows: slice) -> torch.Tensor:
        """Sums over all genes but the perturbed one, less what the sample stands for, (b, h, m, d_head + 1)."""
        plan, base = self.plan, self.plan.unperturbed
        places = plan.places[rows]
        gone = self.weights[base][:, :, places, None] * self.values[base][:, None, places]  # (h, m, b, d_head + 1)
        gone = gone.movedim(2, 0)
        shares = plan.mixture(self.interval, rows, plan.sample)
        stand_for = torch.cat([plan.weights[rows] * share for share in shares], dim=1)  # (b, 2 m)
        rest = self.base - gone - (stand_for @ self.sampled.flatten(1)).view(gone.shape)
        return rest + self.sums.without(places) if self.moves else rest

    def rest_of_inserted(self, query: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for the inserted gene (b, h, 1, d_head + 1), and the logarithm of its exponentials (b, h, 1, 1).

        It enters anew with every perturbation; its reference is the unperturbed cell.
        """
        plan, values = self.plan, self.values[self.plan.unperturbed]
        scores = query @ self.keys.transpose(1, 2)  # (b, h, 1, n)
        top = scores.logsumexp(dim=-1, keepdim=True)
        weights = (scores - top).exp()
        counts = weights.new_ones(query.shape[0], len(plan.ids))
        counts.scatter_(1, plan.places[rows, None], 0)
        counts[:, plan.sample] -= plan.weights[rows]
        return (weights * counts[:, None, None]) @ values, top

    def _terms(self, row: int, places: torch.Tensor | slice) -> torch.Tensor:
        """Weight × value of some genes, (h, m, places, d_head + 1)."""
        return self.weights[row][:, :, places, None] * self.values[row][:, None, places]

    def _differences(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What a reference cell adds to the unperturbed one: outside the interval in all, inside gene by gene."""
        inside = slice(self.interval.start, self.interval.stop)
        base = self.plan.unperturbed
        terms = self._terms(row, inside) - self._terms(base, inside)
        total = self.weights[row] @ self.values[row] - self.base
        return total - terms.sum(dim=2), terms.movedim(2, 0)


class IntervalSums:
    """Sums over all genes but the perturbed one, of a quantity that is known in the two reference cells of an interval.

    Parameters
    ----------
    interval
        The interval, of L places.
    lower, upper
        For each reference cell: the sum outside the interval (…), and the quantity of the genes inside (L, …).
    """

    def __init__(self, interval: Interval, lower: tuple, upper: tuple) -> None:
        self.interval = interval
        (self.lower_outside, lower_inside), (self.upper_outside, upper_inside) = lower, upper
        self.behind = lower_inside.flip(0).cumsum(dim=0).flip(0)  # row t: from place t on
        self.before = upper_inside.cumsum(dim=0)  # row t: up to place t

    def without(self, places: torch.Tensor) -> torch.Tensor:
        """The sums for perturbed genes at some places of the interval, (b, …)."""
        length = len(self.before)
        at = places - self.interval.start  # (b,)
        shape = (-1, *[1] * (self.before.ndim - 1))
        before = self.before[(at - 1).clamp(min=0)] * (at > 0).view(shape)
        behind = self.behind[(at + 1).clamp(max=length - 1)] * (at + 1 < length).view(shape)
        along = self.interval.along(places, before.dtype).view(shape)
        return before + behind + torch.lerp(self.lower_outside, self.upper_outside, along)


def with_one(values: torch.Tensor) -> torch.Tensor:
    """Append a one to every value, so that one product gives numerator and denominator of the attention."""
    return torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
