"""JSON of results: arrays and numbers of numpy included."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def to_json(value: Any) -> str:
    """Readable JSON text, with a line break at the end; numpy's arrays become lists, what JSON does not know text."""
    return json.dumps(value, indent=2, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
