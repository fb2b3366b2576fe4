"""The one progress bar: cells and cells per second."""

from __future__ import annotations

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
