"""The one progress bar: cells and cells per second."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from scgeneformer.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress(total: int, doing: str) -> Iterator[Callable[[int], object]]:
    """Show a bar over `total` cells; gives the function that advances it."""
    with tqdm(total=total, desc=doing, unit="cells", disable=not settings.progress, leave=False) as bar:
        yield bar.update


@contextmanager
def scan_progress(n_cells: int, doing: str, *, show: bool = True) -> Iterator[Callable[[float, int], object]]:
    """Show a bar over cells and perturbations; gives the function that advances both, by parts of cells, too."""
    line = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} cells [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    quiet = not (show and settings.progress)
    with tqdm(total=n_cells, desc=doing, unit="cells", bar_format=line, disable=quiet, leave=False) as bar:
        done = 0

        def advance(cells: float, perturbations: int) -> None:
            nonlocal done
            done += perturbations
            rate = done / max(time.monotonic() - start, 1e-9)
            bar.set_postfix_str(f"{done:,} perturbations, {rate:,.0f}/s", refresh=False)
            bar.update(cells)

        start = time.monotonic()
        yield advance
