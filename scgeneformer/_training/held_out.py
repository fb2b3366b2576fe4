"""Train on some cells and tell of the others, once or by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network
    from scgeneformer._training.run import Run

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Outcome:
    """A trained network and what was found about it.

    Parameters
    ----------
    network
        The network, without dropout and gradients.
    history
        What was logged while it was trained.
    logits
        (n_cells, n_classes) float32 of cells that were not trained on, NaN for all others.
    """

    network: Network
    history: list[dict[str, Any]]
    logits: np.ndarray


def train_once(run: Run, cells: TokenDataset, parts: np.ndarray, checkpoints: Path) -> Outcome:
    """Train on the cells of part 0, validate on part 1, and tell of both part 1 and part 2.

    Parameters
    ----------
    run
        The training.
    cells
        All cells.
    parts
        Part of each cell, (n_cells,).
    checkpoints
        Where checkpoints go.
    """
    train, validation, test = (np.flatnonzero(parts == part) for part in (TRAIN, VALIDATION, TEST))
    if run.recipe.patience is not None and not len(validation):
        raise DataError("patience= stops by the validation loss, and there are no validation cells: see fractions=.")
    watched = cells.take(validation) if len(validation) else None
    network, history = run.train(checkpoints, cells.take(train), watched)
    held_out = np.concatenate([validation, test])
    logits = np.full((len(cells), sum(run.task.sizes)), np.nan, dtype=np.float32)
    if len(held_out):
        logits[held_out], _ = run.task.predict(network, cells.take(held_out))
    return Outcome(network, history, logits)


def cross_validate(run: Run, cells: TokenDataset, folds: np.ndarray, checkpoints: Path) -> Outcome:
    """Train without each fold in turn and tell of it, then train on all cells; that network is kept.

    Early stopping, where asked for, watches the next fold, and for the last network the first.

    Parameters
    ----------
    run
        The training.
    cells
        All cells.
    folds
        Fold of each cell, (n_cells,), from 0.
    checkpoints
        Where checkpoints and the logits of finished folds go.
    """
    n_folds = int(folds.max()) + 1
    logits = np.full((len(cells), sum(run.task.sizes)), np.nan, dtype=np.float32)
    for fold in range(n_folds):
        done = checkpoints / f"fold_{fold}.npy"
        if not done.is_file():
            logg.info(f"    fold {fold + 1} of {n_folds}")
            parts = _parts(run, folds, (fold + 1) % n_folds)
            parts[folds == fold] = TEST
            found = train_once(run, cells, parts, checkpoints / f"fold_{fold}").logits[folds == fold]
            np.save(done, found)
        logits[folds == fold] = np.load(done, allow_pickle=False)
    logg.info("    all cells")
    last = train_once(run, cells, _parts(run, folds, 0), checkpoints / "all")
    return Outcome(last.network, last.history, logits)


def _parts(run: Run, folds: np.ndarray, watched: int) -> np.ndarray:
    """All cells for training, but for the fold that early stopping watches."""
    return np.where((folds == watched) & (run.recipe.patience is not None), VALIDATION, TRAIN)
