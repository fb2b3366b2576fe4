"""What a training gives back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN = ("loss", "accuracy", "macro_f1")


@dataclass(frozen=True, repr=False)
class Trained(os.PathLike):
    """A trained model on disk; stands for its directory wherever a model is asked for.

    Parameters
    ----------
    folder
        Its directory.
    metrics
        What is in its `metrics.json`.
    """

    folder: Path
    metrics: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return "\n    ".join([f"Trained model in {self.folder}", *_lines(self.metrics.get("metrics", {}))])


def _lines(metrics: dict[str, Any], name: str = "") -> Iterator[str]:
    """One line for each part that was judged, however deep it is."""
    shown = {one.replace("_f1", " F1"): metrics[one] for one in SHOWN if isinstance(metrics.get(one), float)}
    if shown:
        yield f"{name}: {', '.join(f'{one} {value:.3f}' for one, value in shown.items())}"
        return
    for part, values in metrics.items():
        if isinstance(values, dict):
            yield from _lines(values, f"{name}, {part}" if name else part)
