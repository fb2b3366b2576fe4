"""Defaults of the session: `scgeneformer.settings`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX = "SCGENEFORMER_"


def _flag(text: str) -> bool:
    return text.strip().lower() not in {"", "0", "false", "no", "off"}


_READERS: dict[str, Callable[[str], Any]] = {"tokens_per_batch": int, "progress": _flag}
_overrides: ContextVar[tuple[dict[str, Any], ...]] = ContextVar("overrides", default=())  # blocks this thread is in


@dataclass
class Settings:
    """Values used where a call does not give its own.

    Each can be set by an environment variable before the import (``SCGENEFORMER_MODEL=mini``), by assignment
    (``gf.settings.model = "mini"``) or for a while (``with gf.settings.override(model="mini"):``).

    Parameters
    ----------
    model
        Registry name, local directory or ``org/repo[/subfolder]``.
    device
        "auto" (CUDA where there is one, else CPU) or a torch device.
    dtype
        "auto" (CUDA: bfloat16, but float32 in `gf.tl.perturb`; CPU: float32), "float32", "bfloat16", "float16" or, on
        CUDA, "tf32".
    tokens_per_batch
        Tokens in one forward pass; None chooses by device and model.
    progress
        Whether long work shows a progress bar.
    """

    model: str = "V2-104M"
    device: str = "auto"
    dtype: str = "auto"
    tokens_per_batch: int | None = None
    progress: bool = True

    @classmethod
    def from_environment(cls) -> Settings:
        """Defaults, overridden by the SCGENEFORMER_* variables that are set."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            if (text := os.environ.get(PREFIX + field.name.upper())) is not None:
                try:
                    values[field.name] = _READERS.get(field.name, str)(text)
                except ValueError:
                    raise DataError(f"{PREFIX}{field.name.upper()}={text!r} is not a whole number.") from None
        return cls(**values)

    def __getattribute__(self, name: str) -> Any:
        override = next((values for values in reversed(_overrides.get()) if name in values), None)
        return super().__getattribute__(name) if override is None else override[name]

    @contextmanager
    def override(self, **values: Any) -> Iterator[Settings]:
        """Use other values inside a ``with`` block, in this thread alone: those that it starts do not see them."""
        names = [field.name for field in fields(self)]
        if unknown := set(values) - set(names):
            raise DataError(f"There is no setting {sorted(unknown)[0]!r}; the settings are {', '.join(names)}.")
        _overrides.set((*_overrides.get(), values))
        try:
            yield self
        finally:
            _overrides.set(tuple(other for other in _overrides.get() if other is not values))


settings = Settings.from_environment()
