"""Search for settings: trainings judged on the validation cells, by Trainer's own interface and Optuna."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from scanpy import logging as logg

from scgeneformer._errors import DataError
from scgeneformer._optional import require
from scgeneformer._training.fit import quiet, same_random_state
from scgeneformer._training.recipe import changed
from scgeneformer._training.search_space import draw
from scgeneformer._training.trainer import PackedTrainer, arguments_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from optuna import Study, Trial

    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network
    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.run import Run
    from scgeneformer._training.search_space import Choice, Range

    RunOf = Callable[[Recipe], Run]
    Space = Mapping[str, Choice | Range]

METRICS = {"loss": "minimize", "accuracy": "maximize", "macro_f1": "maximize"}


@dataclass(frozen=True, eq=False, repr=False)
class Search:
    """What a search found.

    Parameters
    ----------
    recipe
        The best settings, to be handed to a training: ``recipe=found.recipe``.
    trials
        One row per trial, in their order: `state` ("complete", or "pruned" where it was given up), the metric on the
        validation cells when it ended, each setting, and `seconds`.
    """

    recipe: Recipe
    trials: pd.DataFrame

    @property
    def metric(self) -> str:
        """What the trials were judged by."""
        return next(metric for metric in METRICS if f"validation_{metric}" in self.trials)

    @property
    def best(self) -> float:
        """The metric of the best trial that came to its end, on the validation cells."""
        values = self.trials.loc[self.trials["state"] == "complete", f"validation_{self.metric}"]
        return float(values.min() if METRICS[self.metric] == "minimize" else values.max())

    def __repr__(self) -> str:
        told = {"state", "seconds", f"validation_{self.metric}"}
        drawn = _shown({name: getattr(self.recipe, name) for name in self.trials.columns if name not in told})
        return f"Search of {len(self.trials)} trials: {self.metric.replace('_f1', ' F1')} {self.best:.3f} with {drawn}"


class SearchTrainer(PackedTrainer):
    """Trainer that builds a new network for the recipe of each trial.

    Parameters
    ----------
    run_of
        Makes the training of a recipe.
    base
        Settings that are not searched.
    space
        Those that are.
    train, validation
        Cells.
    folder
        Trainer wants one; nothing is left in it.
    """

    def __init__(
        self, run_of: RunOf, base: Recipe, space: Space, train: TokenDataset, validation: TokenDataset, folder: Path
    ) -> None:
        run = run_of(base)
        arguments = run.training_arguments(folder, validates=True, saves=False)
        super().__init__(run.network(train.truth), base, arguments, train, validation, run.task.measure)
        self.run_of, self.base, self.space, self.cells = run_of, base, space, train
        self.model_init: Any = self.begin_trial

    def begin_trial(self, trial: Trial) -> Network:
        """The network of a trial; a trial whose settings make no sense together is given up."""
        from optuna import TrialPruned

        try:
            self.recipe = draw(trial, self.space, self.base)
            run = self.run_of(self.recipe)
            self.network = run.network(self.cells.truth)
        except DataError as error:
            logg.info(f"    trial {trial.number + 1} is given up: {error}")
            raise TrialPruned(str(error)) from error
        self.measure = run.task.measure
        logg.info(f"    trial {trial.number + 1}: {_shown(trial.params)}")
        return self.network

    def arguments_of_trial(self, trial: Trial) -> dict[str, Any]:
        """What of the recipe of a trial are arguments of Trainer."""
        return arguments_of(draw(trial, self.space, self.base))


def search(
    run_of: RunOf,
    base: Recipe,
    space: Space,
    train: TokenDataset,
    validation: TokenDataset,
    *,
    metric: str,
    n_trials: int,
    name: str,
    journal: Path | None,
) -> Search:
    """Run trials until there are `n_trials`, those of the same name that are in `journal` already included.

    Optuna draws the settings by its tree-structured Parzen estimator (Bergstra et al. 2011), and gives up trials that
    are worse than the median of the others at the same step.

    Parameters
    ----------
    run_of
        Makes the training of a recipe.
    base
        Settings that are not searched; its `patience` takes part in no trial.
    space
        Those that are.
    train, validation
        Cells to train on, and to judge by.
    metric
        A name in `METRICS`.
    n_trials
        Number of trials.
    name
        Tells this search from others in the same file.
    journal
        File in which the trials are kept; None keeps them in memory.

    Raises
    ------
    MissingExtraError
        If optuna is not installed.
    DataError
        If no trial came to its end, or `journal` is another kind of file.
    """
    optuna = require("optuna", "search", "A search for settings")
    asked, base = base, replace(base, patience=None)
    with quiet(), _quiet(optuna), same_random_state(), tempfile.TemporaryDirectory() as scratch:
        trainer = SearchTrainer(run_of, base, space, train, validation, Path(scratch))
        storage = _storage(optuna, journal)
        same: dict[str, Any] = {"storage": storage, "study_name": name, "direction": METRICS[metric]}
        study = optuna.create_study(**same, load_if_exists=True)
        if done := len(_ended(study)):
            logg.info(f"    {done} trials are there already")
        if done < n_trials:
            sampler = optuna.samplers.TPESampler(seed=run_of(base).seed + done)
            try:
                trainer.hyperparameter_search(
                    trainer.arguments_of_trial,
                    lambda metrics: metrics[f"eval_{metric}"],
                    n_trials=n_trials - done,
                    backend="optuna",
                    sampler=sampler,
                    load_if_exists=True,
                    **same,
                )
            except ValueError:  # of Optuna, if all trials were given up: told below
                if _completed(study):
                    raise
    if not _completed(study):
        raise DataError(f"All {len(_ended(study))} trials were given up; the log says why. Change space=.")
    return Search(changed(asked, study.best_params), _table(study, metric))


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{n}={x:.3g}" if isinstance(x, float) else f"{n}={x}" for n, x in settings.items())


def _ended(study: Study) -> list:
    """Trials that were not cut off."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _completed(study: Study) -> bool:
    return any(trial.state.name == "COMPLETE" for trial in study.trials)


def _table(study: Study, metric: str) -> pd.DataFrame:
    rows = [
        {
            "state": trial.state.name.lower(),
            f"validation_{metric}": trial.value,
            **trial.params,
            "seconds": trial.duration.total_seconds(),
        }
        for trial in _ended(study)
    ]
    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="trial"))


def _storage(optuna: Any, journal: Path | None) -> Any:
    if journal is None:
        return optuna.storages.InMemoryStorage()
    if journal.is_dir() or (journal.is_file() and _first_byte(journal) not in (b"", b"{")):
        raise DataError(f"out={str(journal)!r} is no file of trials. Name another one.")
    journal.parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna says nothing but warnings: our log has it all."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
