"""Train a network from its latest checkpoint, or from the beginning."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from scgeneformer._training.processes import is_first
from scgeneformer._training.trainer import PackedTrainer, is_over

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import TrainingArguments

    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network
    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.trainer import Measure

STATE_FILE = "trainer_state.json"


def fit(
    network: Network,
    recipe: Recipe,
    folder: Path,
    arguments: TrainingArguments,
    train: TokenDataset,
    validation: TokenDataset | None,
    measure: Measure,
) -> list[dict[str, Any]]:
    """Train `network` in place; without dropout and gradients afterwards.

    A run that was cut off goes on from its latest checkpoint in `folder`: the same cells in the same order with the
    same dropout, so that on a CPU the weights become the same, bit by bit. The random state of the caller is left as
    it is.

    Parameters
    ----------
    network
        What is trained.
    recipe
        Settings.
    folder
        Where checkpoints are looked for.
    arguments
        Those of transformers; they say where checkpoints go.
    train, validation
        Cells.
    measure
        As in :class:`PackedTrainer`.

    Returns
    -------
    What was logged: one dictionary for every ten steps and every validation.
    """
    with same_random_state(), quiet():
        last, state = last_checkpoint(folder)
        trainer = PackedTrainer(network, recipe, arguments, train, validation, measure)
        history = state.get("log_history", [])
        if last is not None and recipe.patience is not None and is_over(history, arguments, recipe.patience):
            best = state["best_model_checkpoint"] if arguments.load_best_model_at_end else last.name
            trainer.take(folder / Path(best).name)  # it had stopped: that is all that is left
        else:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
            history = trainer.state.log_history
    network.eval().requires_grad_(False)
    return history


def last_checkpoint(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The latest whole checkpoint in `folder`, if any, and its state; what a kill left half written is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(found):
        try:
            return path, json.loads((path / STATE_FILE).read_text(encoding="utf-8"))  # what Trainer writes last
        except (OSError, ValueError):
            if is_first():
                shutil.rmtree(path)
    return None, {}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the remarks of transformers from the user: what matters is in our log."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


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
