"""Descriptions of parameters that several functions share, written once."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    F = TypeVar("F", bound=Callable)

_CELLS = """\
adata
    Cells × genes, with raw or log1p-normalised counts."""
_MODEL = """\
model
    Registry name (:func:`scgeneformer.models.available`), local directory, ``org/repo[/subfolder]`` on the hub or
    a loaded model; None takes ``scgeneformer.settings.model``."""
_LAYER = """\
layer
    Hidden layer: 0 = embedding output, n = after block n, negative from the end (-1 last, -2 second to last).
    A list is computed in one pass."""
_COUNTS = """\
counts_layer
    Layer with the counts (raw, or log1p-normalised, which ranks alike); None takes ``adata.X``.
use_raw
    Take the counts from ``adata.raw``.
gene_ids
    Column of ``adata.var`` with Ensembl IDs or symbols, or "var_names", which alone counts then. None finds it by
    itself, prefers Ensembl IDs, and takes the names of genes without one from the other columns."""
_PREVIOUS = """\
previous_layer
    For models that read two time points: layer with the counts of the same cells before. A cell of which nothing is
    known then has zeros or NaN there. None takes the layer that stored tokens were made from."""
_DEVICES = """\
device
    "auto" (CUDA where there is one, else CPU), a torch device, "cuda:all", or a list of devices, which share the
    cells; the results are those of one device."""
_DTYPE = """\
dtype
    "auto" (CUDA: bfloat16, CPU: float32), "float32", "bfloat16", "float16" or, on CUDA, "tf32"."""
_TOKENS_PER_BATCH = """\
tokens_per_batch
    Tokens in one forward pass; None chooses by itself. The results do not depend on it."""
_COPY = """\
copy
    Return a copy of `adata` with the results and leave `adata` as it is."""
_OUT = """\
out
    Folder (a zarr store) for finished parts of the run, on disk instead of in memory. Called again after an
    interruption, with the same arguments and data, the run goes on where it was."""
_SPLIT = """\
split
    Column of ``adata.obs`` with "train", "validation" and "test" (see :func:`split_cells`).
split_by
    Columns such as "donor": all cells of one donor go to the same part.
fractions
    Shares of training, validation and test cells, where `split` does not give them."""
_RECIPE = """\
recipe
    Settings by name (:func:`scgeneformer.models.recipes`), or a :class:`scgeneformer.models.Recipe`."""
_TRAINING = """\
device
    "auto" (CUDA where there is one, else CPU) or a torch device. Several GPUs: one process each, by ``torchrun``.
dtype
    "auto" (CUDA: mixed precision in bfloat16, CPU: float32), "float32", "bfloat16" or "float16".
arguments
    Arguments of `transformers.TrainingArguments` that take the place of ours, such as
    ``{"report_to": "tensorboard", "save_steps": 500}``; settings of the training have names of their own.
overwrite
    Whether `out` may be a model directory already.
**settings
    Settings of the recipe to change, such as ``learning_rate=1e-4, epochs=3, frozen_layers=4``: see
    :class:`scgeneformer.models.Recipe`."""
_JUDGED = """\
adata
    After :func:`scgeneformer.tl.train_classifier`, :func:`scgeneformer.tl.train_gene_classifier` or
    :func:`scgeneformer.tl.probe`.
label
    What is told, or a key in `uns` such as "geneformer_cell_type_truth" of :func:`scgeneformer.tl.classify`."""
_PERTURBATION = """\
perturbation
    Name of the perturbed gene or combination; None takes the only one there is.
key
    Key of the perturbation; None takes "geneformer_delete", or the only one there is."""
_AXES = """\
ax
    Draw here.
show
    Show the figure; by default as scanpy's ``autoshow`` says, and not if `ax` is given.
return_fig
    Return the figure."""
_SHARED = {
    "{cells}": _CELLS,
    "{model}": _MODEL,
    "{layer}": _LAYER,
    "{counts}": _COUNTS,
    "{previous}": _PREVIOUS,
    "{devices}": _DEVICES,
    "{tokens_per_batch}": _TOKENS_PER_BATCH,
    "{device}": f"{_DEVICES}\n{_DTYPE}\n{_TOKENS_PER_BATCH}",
    "{out}": _OUT,
    "{copy}": _COPY,
    "{split}": _SPLIT,
    "{recipe}": _RECIPE,
    "{training}": _TRAINING,
    "{judged}": _JUDGED,
    "{perturbation}": _PERTURBATION,
    "{axes}": _AXES,
}


def shared_docs(function: F) -> F:
    """Put the shared descriptions in place of lines such as ``{model}`` and ``{counts}``."""
    lines = inspect.cleandoc(function.__doc__ or "").splitlines()
    function.__doc__ = "\n".join(_SHARED.get(line, line) for line in lines)
    return function
