"""The screen: the effect of perturbing every gene of a cell, one after the other, estimated from a sample of its genes.

An exact scan runs a whole cell for every perturbation. Here each perturbed cell is carried through the blocks on the
same m genes only, a few dozen drawn at equal distances of rank. Their attention still sums over all n genes j:

    Σ_j exp(q_i·k_j) v_j   ≈   Σ_{j≠p} R_ij   +   Σ_{s in sample} w_s (exp(q_i·k_s) v_s − R_is)        w_s = n / m

for query i and perturbed gene p, and the same with v = 1 for the denominator. R_ij = exp(q⁰_i·k⁰_j) v⁰_j is known from
a run of a whole reference cell, so that the sum without p is exact; the sample only estimates how much the keys and
values of the others differ from the reference. (The difference estimator of survey sampling, Särndal et al. 1992; to
those who simulate, a control variate.) With positions held the reference is the unperturbed cell. With moving positions
it is interpolated between a few whole cells in which all genes behind (deletion) or in front of (overexpression) a
certain rank have moved: then sums over all moved genes are right to leading order, too. What is compared at the end,
the mean shift of the genes or the mean embedding, is estimated in the same way. With m = n the result is exact.

All perturbed cells share one sample, so that its error is much the same for all of them and hardly touches their order.
An embedding has a direction, and there it does show, where genes move: a few perturbations are run exactly, and
their error, interpolated over rank, is taken from the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

from scgeneformer._engine.perturbation.screen_measures import MEASURES
from scgeneformer._engine.perturbation.screen_plan import make_plan
from scgeneformer._engine.perturbation.screen_reference import KnownAttention, with_one
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import BertLayer, BertModel

    from scgeneformer._engine.perturbation.screen_measures import Measure
    from scgeneformer._engine.perturbation.screen_plan import CellPlan, Checks

N_CARRIED, N_PILOTS, N_CHECKS = 32, 4, 16
AT_ONCE = 64  # perturbations in one pass, so that what they need stays in a processor's cache


@torch.inference_mode()
def screen_cell(
    bert: BertModel,
    ids: np.ndarray,
    *,
    layer: int,
    mode: str = "delete",
    targets: np.ndarray | None = None,
    n_lead: int = 0,
    n_trail: int = 0,
    hold: bool = False,
    measure: str = "genes",
    n_carried: int = N_CARRIED,
    n_pilots: int = N_PILOTS,
    n_checks: int = N_CHECKS,
    seed: int = 0,
    goals: torch.Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the effect of perturbing genes of one cell, one at a time.

    Parameters
    ----------
    bert
        The encoder, in float32 or float64: effects are too small for half precision.
    ids
        Tokens of the cell, special ones included, (n,).
    layer
        Hidden layer, counted from 0.
    mode
        "delete" or "overexpress" (to the first rank).
    targets
        Tokens of genes of the cell, (p,); None: all in the order of their ranks.
    n_lead, n_trail
        Special tokens in front and behind.
    hold
        Positions stay as they are (deletion only).
    measure
        "genes": 1 − mean cosine of the unperturbed genes, "cls": of the first token, "mean": of the mean over genes.
    n_carried
        Genes that stand for all of them; as many as the cell has makes the result exact.
    n_pilots
        Intervals of rank between reference cells; no meaning with `hold`.
    n_checks
        Perturbations that are also run exactly, to correct the embeddings of the others; without `hold` only, and only
        for "cls", "mean" and `goals`.
    seed
        Of the sample of genes, which depends on the cell's tokens besides.
    goals
        Embeddings of states, (n_states, d) of unit length, float64 on the encoder's device.

    Returns
    -------
    shift
        (p,) float64.
    towards
        cos(perturbed, state) − cos(unperturbed, state), (n_states, p) float64; of the first token if the measure
        is "cls", otherwise of the mean over all genes.

    Raises
    ------
    DataError
        If the encoder is in half precision, the measure is unknown, or as :func:`screen_plan.make_plan` does.
    """
    if bert.dtype not in (torch.float32, torch.float64):
        raise DataError(f"The screen needs dtype='float32': effects of one gene are lost in {bert.dtype}.")
    if measure not in MEASURES or (measure == "cls" and not n_lead):
        valid = [name for name in MEASURES if name != "cls" or n_lead]
        raise DataError(f"measure={measure!r} is not one of {', '.join(map(repr, valid))}.")
    ids = np.asarray(ids)
    genes = ids[n_lead : len(ids) - n_trail]
    plan, order = make_plan(
        ids,
        genes if targets is None else np.asarray(targets),
        mode=mode,
        hold=hold,
        n_lead=n_lead,
        n_trail=n_trail,
        n_carried=n_carried,
        n_pilots=n_pilots,
        n_checks=n_checks,
        seed=seed,
        device=bert.device,
        dtype=bert.dtype,
    )
    shift, moved = _run(bert, plan, layer, MEASURES[measure], goals)
    back = np.argsort(order)
    return shift[back], moved[:, back]


def _run(
    bert: BertModel, plan: CellPlan, layer: int, measure: Measure, goals: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Carry out a plan; shifts (p,) and shifts towards the goals (n_states, p), in its order."""
    whole, carried = _embed(bert, plan)
    for block in bert.encoder.layer[:layer]:
        whole, carried = _step(cast("BertLayer", block), whole, carried, plan)
    shift = None if measure.shift is None else measure.shift(whole, carried, plan)
    if shift is not None and goals is None:
        return shift.cpu().numpy(), np.empty((0, len(shift)))
    before, after = measure.cell(whole, carried, plan)
    if plan.checks is not None:
        after = after - _error(bert, plan, layer, measure, after)
    difference = normalize(after, dim=-1) - normalize(before, dim=-1)  # (p, d); small differences keep their digits
    shift = difference.square().sum(dim=-1) / 2 if shift is None else shift
    towards = difference[:, :0] if goals is None else difference @ goals.double().T
    return shift.cpu().numpy(), towards.T.cpu().numpy()


def _error(bert: BertModel, plan: CellPlan, layer: int, measure: Measure, found: torch.Tensor) -> torch.Tensor:
    """Error of estimated embeddings (p, d): that of a few perturbations that are run exactly, interpolated over places.

    All perturbed cells share one sample. Where genes move, what it misses hence changes smoothly with the place.
    """
    rows, ids, positions, genes = cast("Checks", plan.checks)
    exact = []
    for one in _chunks(len(rows), size=1):
        hidden = bert.embeddings(input_ids=ids[one], position_ids=positions[one])
        for block in bert.encoder.layer[:layer]:
            q, k, v = _project(cast("BertLayer", block), hidden)
            hidden = _finish(cast("BertLayer", block), scaled_dot_product_attention(q, k, v, scale=1.0), hidden)
        exact.append(measure.pool(hidden, genes))
    error = found[rows] - torch.cat(exact)  # (c, d)
    places, at = plan.places[rows].double(), plan.places.double()
    behind = torch.searchsorted(places, at, right=True).clamp(1, max(1, len(places) - 1))  # check behind each place
    if len(places) == 1 or places[0] == places[-1]:
        return error.mean(dim=0)
    low, high = places[behind - 1], places[behind]
    along = ((at - low) / (high - low)).clamp(0, 1)[:, None]
    return torch.lerp(error[behind - 1], error[behind], along)


def _embed(bert: BertModel, plan: CellPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """Embedding outputs of the whole cells (r, n, d) and of the carried genes (p, c, d), an inserted one behind."""
    whole = bert.embeddings(input_ids=plan.ids.expand(plan.references.shape), position_ids=plan.references)
    ids, positions = plan.ids[plan.sample].expand(plan.positions.shape), plan.positions
    if plan.inserted is not None:
        ids = torch.cat([ids, plan.inserted[:, None]], dim=1)
        positions = torch.cat([positions, torch.full_like(plan.inserted[:, None], plan.n_lead)], dim=1)
    parts = [bert.embeddings(input_ids=ids[r], position_ids=positions[r]) for r in _chunks(len(ids))]
    return whole, torch.cat(parts)


def _step(
    block: BertLayer, whole: torch.Tensor, carried: torch.Tensor, plan: CellPlan
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run one block on the whole cells and on the carried genes of every perturbed cell."""
    q, k, v = _project(block, whole)  # (r, h, n, d_head); q is scaled
    ones = with_one(v)
    scores = q[plan.unperturbed][:, plan.sample] @ k.transpose(2, 3)  # (r, h, m, n)
    top = scores[plan.unperturbed].logsumexp(dim=-1, keepdim=True)  # (h, m, 1)
    weights = (scores - top).exp()
    known = KnownAttention(weights, ones, k[plan.unperturbed], top, plan)
    after = torch.empty_like(carried)
    for interval in plan.intervals:
        known.enter(interval)
        for rows in _chunks(interval.rows.stop - interval.rows.start, interval.rows.start):
            after[rows] = _carry(block, carried[rows], known, rows)
    context = scaled_dot_product_attention(q, k, v, scale=1.0)
    return _finish(block, context, whole), after


def _carry(block: BertLayer, carried: torch.Tensor, known: KnownAttention, rows: slice) -> torch.Tensor:
    """Run one block on the carried genes of some perturbed cells, (b, c, d)."""
    plan = known.plan
    q, k, v = _project(block, carried)  # (b, h, c, d_head)
    stand_for, top = plan.weights[rows], known.top.expand(len(carried), -1, -1, -1)
    rest = known.rest(rows)  # (b, h, m, d_head + 1)
    if plan.inserted is not None:
        stand_for = torch.cat([stand_for, torch.ones_like(stand_for[:, :1])], dim=1)
        own_rest, own_top = known.rest_of_inserted(q[:, :, -1:], rows)
        rest, top = torch.cat([rest, own_rest], dim=2), torch.cat([top, own_top], dim=2)
    weights = (q @ k.transpose(2, 3) - top).exp() * stand_for[:, None, None]
    total = rest + weights @ with_one(v)
    return _finish(block, total[..., :-1] / total[..., -1:], carried)


def _project(block: BertLayer, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, scaled, keys and values by head, each (…, h, n, d_head)."""
    attention = block.attention.self
    shape = (attention.num_attention_heads, attention.attention_head_size)
    q, k, v = (
        layer(hidden).unflatten(-1, shape).transpose(-2, -3)
        for layer in (attention.query, attention.key, attention.value)
    )
    return q * attention.attention_head_size**-0.5, k, v


def _finish(block: BertLayer, context: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The rest of a block behind its attention; `context` is (…, h, n, d_head)."""
    attended = block.attention.output(context.transpose(-2, -3).flatten(-2), hidden)
    return block.output(block.intermediate(attended), attended)


def _chunks(n: int, first: int = 0, size: int = AT_ONCE) -> Iterator[slice]:
    """Cut n rows from `first` on into pieces of at most `size`."""
    yield from (slice(start, min(start + size, first + n)) for start in range(first, first + n, size))
