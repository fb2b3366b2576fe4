"""What a training gives back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
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
