"""Load a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._engine.device import resolve_device, resolve_dtype
from scgeneformer.models._cache import get_or_read
from scgeneformer.models._locate import locate
from scgeneformer.models._model import Model, ModelLike

if TYPE_CHECKING:
    import os

    import torch


def load(
    model: ModelLike | None = None,
    *,
    dictionaries: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
) -> Model:
    """Load a Geneformer model, once per process.

    Loaded models are kept: a second call with the same model, device and dtype returns the same object and reads
    nothing. Models on the hub are fetched into its shared cache first.

    Parameters
    ----------
    model
        Registry name (see :func:`available`), local directory, ``org/repo[/subfolder][@revision]`` on the Hugging Face
        hub, or a loaded model. None takes `scgeneformer.settings.model`.
    dictionaries
        Folder with the reference's dictionary pickles, or a `genes.tsv`, for a checkpoint that has none beside it.
        They must fit the weights.
    device
        "auto" (the session's default, and without one CUDA where there is one, else CPU), "cpu", "cuda", "cuda:1" or
        a torch device.
    dtype
        "auto" (the session's default, and without one bfloat16 on CUDA where supported, float32 on a CPU),
        "float32", "bfloat16", "float16" or the torch dtype.

    Returns
    -------
    The model. A loaded model comes back as it is, or as its twin if another device or dtype is asked for.

    Raises
    ------
    ModelNotFoundError
        If it is not on this machine and cannot be fetched.
    ModelError
        If the name is unknown, a file is damaged, or weights, config and vocabulary do not fit each other. Nothing
        in a model's files is ever executed.

    See Also
    --------
    available : models known by name.
    clear_cache : free loaded models.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.models.load("mini", device="cpu").dtype
    torch.float32
    """
    if isinstance(model, Model):
        return _twin(model, device, dtype)
    from scgeneformer.settings import settings

    on = resolve_device(settings.device if device == "auto" else device)
    numbers = resolve_dtype(settings.dtype if dtype == "auto" else dtype, on)
    files = locate(settings.model if model is None else model, dictionaries)
    return get_or_read(files, on, numbers)


def _twin(model: Model, device: str | torch.device, dtype: str | torch.dtype) -> Model:
    """Return `model` itself, or the same model on another device or in another dtype."""
    from scgeneformer.models._read import convert

    on = model.device if device == "auto" else resolve_device(device)
    numbers = model.dtype if dtype == "auto" else resolve_dtype(dtype, on)
    if (on, numbers) == (model.device, model.dtype):
        return model
    return convert(model, on, numbers) if model.files is None else get_or_read(model.files, on, numbers)
