"""What is asked of `gf.tl.perturb`, and the checks that need no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata.perturbation.choice import check_mode, split
from scgeneformer._adata.sampling import sample_cells
from scgeneformer._checks import check_choice, check_whole
from scgeneformer._errors import DataError
from scgeneformer.models import _registry
from scgeneformer.settings import settings

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer._adata.groups import Groups
    from scgeneformer._adata.perturbation.choice import Genes
    from scgeneformer._adata.perturbation.goal import Goal

POSITIONS = {"shift": (False,), "hold": (True,), "both": (False, True)}  # whether positions are held
MEASURES = ("genes", "cls", "mean")
METHODS = ("exact", "screen")
SCREENED = ("delete", "overexpress")  # modes that can be estimated
HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`scgeneformer.tl.perturb` that say what is done and measured."""

    genes: Genes
    mode: str
    to: Any
    anchor: str | None
    refill: bool
    positions: str
    measure: str | None
    effects: bool
    vectors: bool
    n_matched: int
    sample: int | None
    seed: int
    method: str
    n_exact: int


def check_screen(request: Request) -> None:
    """Refuse what the screen cannot estimate."""
    check_choice(METHODS, method=request.method)
    if request.method == "exact":
        return
    asked = {
        f"mode={request.mode!r}": request.mode not in SCREENED,
        "combinations of genes": bool(split(request.genes)[1]),
        "anchor=": request.anchor is not None,
        "refill=True": request.refill,
        "effects=True": request.effects,
        "vectors=True": request.vectors,
    }
    if refused := [name for name, given in asked.items() if given]:
        raise DataError(
            f"method='screen' does not estimate {refused[0]}, only the shifts of single genes by deletion or "
            "overexpression. Use method='exact'."
        )


def choose_dtype(dtype: Any, method: str) -> str:
    """The dtype that is asked for, here or in the settings; float32 where none is.

    Half precision is refused for the screen, and warned of: it hides what a single gene does.
    """
    asked = str(settings.dtype if dtype == "auto" else dtype).removeprefix("torch.")
    if asked in HALF:
        lost = f"dtype={asked!r} rounds by more than many genes move a cell"
        if method == "screen":
            raise DataError(f"{lost}, and method='screen' cannot do with it. Use dtype='float32'.")
        logg.warning(f"{lost}. Use dtype='float32' or, on CUDA, 'tf32', which is faster.")
    return "float32" if asked == "auto" else asked


def check(request: Request) -> None:
    """Refuse what can be refused without looking at the data."""
    check_mode(request.mode)
    check_screen(request)
    singles, combinations = split(request.genes)
    if model := next((name for name in singles or () if _registry.find(name)), None):
        raise DataError(f"genes={model!r} is the name of a model. Name it by its keyword: model={model!r}.")
    _check_positions(request, singles, combinations)
    if request.measure is not None:
        check_choice(MEASURES, measure=request.measure)
    if request.anchor is not None and combinations:
        raise DataError(
            "anchor pairs single genes with it, and a combination names all of its genes. Leave one of them out."
        )
    for name in ("effects", "vectors"):
        if getattr(request, name) and request.genes is None:
            raise DataError(f"{name}=True keeps much for every perturbation. Name the genes: genes=[...].")
    check_whole(0, n_matched=request.n_matched, n_exact=request.n_exact)
    check_whole(1, sample=1 if request.sample is None else request.sample)
    if request.n_matched and not singles:
        raise DataError(
            "n_matched adds nulls to genes that are named one by one; all genes of a cell are each other's. Name "
            "genes, "
            "genes=[...], or leave n_matched out."
        )


def _check_positions(request: Request, singles: list[str] | None, combinations: list[Any]) -> None:
    """Refuse to hold positions where a mode moves genes; and modes that do not exist."""
    from scgeneformer._engine.perturbation.edits import EDITS

    check_choice(POSITIONS, positions=request.positions)
    modes = {request.mode} if not combinations or singles else set()
    modes |= {mode for one in combinations for mode in (one if isinstance(one, Mapping) else [request.mode])}
    for mode in modes:
        check_mode(mode)
    if request.positions != "shift":
        if moving := [mode for mode in EDITS if mode in modes and not EDITS[mode].in_place]:
            holding = ", ".join(repr(mode) for mode, kind in EDITS.items() if kind.in_place)
            raise DataError(
                f"positions={request.positions!r} has no meaning for {moving[0]!r}: it gives genes other ranks, and so "
                f"other positions. Only {holding} leave all other genes where they are."
            )
        if request.refill:
            raise DataError(
                "refill=True moves genes up from beyond the cut, which have no position to hold. Take "
                "positions='shift'."
            )


def find_cells(adata: AnnData, request: Request, goal: Goal | None, groups: Groups | None) -> np.ndarray:
    """Which cells are perturbed, (n_obs,) bool: those of the start state, or a sample of them (of each group)."""
    cells = np.ones(adata.n_obs, dtype=bool) if goal is None else goal.codes == 0
    codes = np.zeros(adata.n_obs, dtype=np.int64) if groups is None else groups.codes
    return sample_cells(adata, request.sample, request.seed, cells, codes)
