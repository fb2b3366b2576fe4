"""Train on some cells (or genes) and tell of the others, once or by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scanpy import logging as logg

from scgeneformer._publish import published
from scgeneformer._training.processes import is_first, wait_for_all
from scgeneformer._training.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from pathlib import Path

    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network
    from scgeneformer._training.run import Run
    from scgeneformer._training.task import ClassTask


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
        (m, n_classes) float32 of cells, or genes in cells, that were not trained on, NaN for all others; in the order
        of :attr:`TokenDataset.units`.
    """

    network: Network
    history: list[dict[str, Any]]
    logits: np.ndarray


def train_once(run: Run, cells: TokenDataset, parts: np.ndarray, checkpoints: Path) -> Outcome:
    """Train on part 0, validate on part 1, and tell of both part 1 and part 2.

    Parameters
    ----------
    run
        The training.
    cells
        All cells.
    parts
        Part of each cell, (n_cells,), or of each gene, by token, (n_tokens,).
    checkpoints
        Where checkpoints go.
    """
    validation, held_out = parts == VALIDATION, np.isin(parts, (VALIDATION, TEST))
    watched = cells.part(validation) if validation.any() else None
    network, history = run.train(checkpoints, cells.part(parts == TRAIN), watched)
    rows = held_out[cells.units]
    logits = np.full((len(rows), sum(run.task.sizes)), np.nan, dtype=np.float32)
    if rows.any():
        logits[rows], _ = cast("ClassTask", run.task).predict(network, cells.part(held_out))
    return Outcome(network, history, logits)


def cross_validate(run: Run, cells: TokenDataset, folds: np.ndarray, checkpoints: Path) -> Outcome:
    """Train without each fold in turn and tell of it, then train on all; that network is kept.

    Early stopping, where asked for, watches the next fold, and for the last network the first.

    Parameters
    ----------
    run
        The training.
    cells
        All cells.
    folds
        Fold, from 0, of each cell, (n_cells,), or of each gene, by token, (n_tokens,).
    checkpoints
        Where checkpoints and the logits of finished folds go.
    """
    n_folds, fold_of_row = int(folds.max()) + 1, folds[cells.units]
    logits = np.full((len(fold_of_row), sum(run.task.sizes)), np.nan, dtype=np.float32)
    for fold in range(n_folds):
        done = checkpoints / f"fold_{fold}.npy"
        if not done.is_file():
            logg.info(f"    fold {fold + 1} of {n_folds}")
            parts = _parts(run, folds, (fold + 1) % n_folds)
            parts[folds == fold] = TEST
            outcome = train_once(run, cells, parts, checkpoints / f"fold_{fold}")
            if is_first():
                with published(done) as fresh:
                    np.save(fresh, outcome.logits[fold_of_row == fold])
            wait_for_all()
        logits[fold_of_row == fold] = np.load(done, allow_pickle=False)
    logg.info("    all folds")
    last = train_once(run, cells, _parts(run, folds, 0), checkpoints / "all")
    return Outcome(last.network, last.history, logits)


def _parts(run: Run, folds: np.ndarray, watched: int) -> np.ndarray:
    """All for training, but for the fold that early stopping watches."""
    return np.where((folds == watched) & (run.recipe.patience is not None), VALIDATION, TRAIN)
