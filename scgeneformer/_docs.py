"""Descriptions of parameters that many functions share, written once."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    F = TypeVar("F", bound=Callable)

_MODEL = """\
model
    Registry name (:func:`scgeneformer.models.available`), local directory, ``org/repo[/subfolder]`` on the hub or
    a loaded model; None takes ``scgeneformer.settings.model``."""
_COUNTS = """\
counts_layer
    Layer with the counts (raw, or log1p-normalised, which ranks alike); None takes ``adata.X``.
use_raw
    Take the counts from ``adata.raw``.
gene_ids
    Column of ``adata.var`` with Ensembl IDs or symbols, or "var_names"; None finds it by itself."""
_PREVIOUS = """\
previous_layer
    For models that read two time points: layer with the counts of the same cells before. A cell of which nothing is
    known then has zeros or NaN there. None takes the layer that stored tokens were made from."""
_DEVICE = """\
device
    "auto" (CUDA where there is one, else CPU), a torch device, "cuda:all", or a list of devices, which share the
    cells; the results are those of one device.
dtype
    "auto" (CUDA: bfloat16, CPU: float32), "float32", "bfloat16", "float16" or, on CUDA, "tf32".
tokens_per_batch
    Tokens in one forward pass; None chooses by itself. The results do not depend on it."""
_COPY = """\
copy
    Return a copy of `adata` with the results and leave `adata` as it is."""
_OUT = """\
out
    Folder (a zarr store) for finished parts of the run, on disk instead of in memory. Called again after an
    interruption, with the same arguments and data, the run goes on where it was."""
_SHARED = {
    "{model}": _MODEL,
    "{counts}": _COUNTS,
    "{previous}": _PREVIOUS,
    "{device}": _DEVICE,
    "{out}": _OUT,
    "{copy}": _COPY,
}


def shared_docs(function: F) -> F:
    """Put the shared descriptions in place of lines such as ``{model}`` and ``{counts}``."""
    lines = inspect.cleandoc(function.__doc__ or "").splitlines()
    function.__doc__ = "\n".join(_SHARED.get(line, line) for line in lines)
    return function
