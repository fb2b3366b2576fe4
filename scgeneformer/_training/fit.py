"""Train a network from its latest checkpoint, or from the beginning."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scgeneformer._training.trainer import PackedTrainer, training_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network
    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.trainer import Predict


def fit(
    network: Network,
    recipe: Recipe,
    folder: Path,
    train: TokenDataset,
    validation: TokenDataset | None,
    predict: Predict,
    *,
    seed: int,
    device: torch.device,
    half: str | None,
    arguments: dict[str, Any],
) -> list[dict[str, Any]]:
    """Train `network` in place; on `device` afterwards, without dropout and gradients.

    A run that was cut off goes on from its latest checkpoint in `folder`: the same cells in the same order with the
    same dropout, so that on a CPU the weights become the same, bit by bit.

    Parameters
    ----------
    network
        What is trained.
    recipe
        Settings.
    folder
        Where checkpoints go and are looked for.
    train, validation
        Cells.
    predict
        As in :class:`PackedTrainer`.
    seed
        Of dropout and of the order of the cells. The random state of the caller is left as it is.
    device
        Where to train.
    half
        "bf16" or "fp16" for mixed precision, or None.
    arguments
        Arguments of `transformers.TrainingArguments` that take the place of ours.

    Returns
    -------
    What was logged: one dictionary for every ten steps and every validation.
    """
    from transformers.trainer_utils import get_last_checkpoint

    if device.type == "cuda":
        torch.cuda.set_device(device)
    with same_random_state():
        ours = training_arguments(
            recipe,
            folder,
            seed=seed,
            cpu=device.type == "cpu",
            half=half,
            validates=validation is not None,
            more=arguments,
        )
        trainer = PackedTrainer(network, recipe, ours, train, validation, predict)
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        trainer.train(resume_from_checkpoint=last)
    network.eval().requires_grad_(False)
    return trainer.state.log_history


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave the random state of Python, numpy and torch as it was."""
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  Trainer seeds it
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(legacy)  # noqa: NPY002


def mixed_precision(dtype: str, device: torch.device) -> str | None:
    """Name of the mixed precision that `dtype` asks for: "bf16", "fp16", or None for float32.

    Raises
    ------
    ModelError
        If the device does not compute in `dtype`.
    """
    from scgeneformer._engine.device import resolve_dtype

    resolved = resolve_dtype(dtype, device)
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(resolved)
