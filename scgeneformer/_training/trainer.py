"""`transformers.Trainer` on packed batches: our batches, learning rates and validation; its loop and checkpoints."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from scgeneformer._checks import did_you_mean
from scgeneformer._errors import DataError
from scgeneformer._progress import progress
from scgeneformer._training.dataset import collate
from scgeneformer._training.optimizer import parameter_groups
from scgeneformer._training.recipe import Recipe
from scgeneformer._training.width import times_wider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network

    Measure = Callable[[Network, TokenDataset], dict[str, float]]

OF_RECIPE: dict[str, tuple[str, type]] = {  # argument of transformers: field of Recipe, and its type there
    "num_train_epochs": ("epochs", float),
    "per_device_train_batch_size": ("batch_size", int),
    "gradient_accumulation_steps": ("accumulation", int),
    "learning_rate": ("learning_rate", float),
    "lr_scheduler_type": ("schedule", str),
    "warmup_steps": ("warmup", float),
    "weight_decay": ("weight_decay", float),
    "max_grad_norm": ("max_grad_norm", float),
}
OF_CALL = {  # argument of transformers: parameter of our functions
    **{name: field for name, (field, _) in OF_RECIPE.items()},
    "seed": "seed",
    "output_dir": "out",
    "use_cpu": "device",
    "bf16": "dtype",
    "fp16": "dtype",
}


class PackedTrainer(Trainer):
    """Trainer of a :class:`Network`.

    Parameters
    ----------
    network
        What is trained.
    recipe
        Settings.
    arguments
        Those of transformers, see :func:`training_arguments`.
    train, validation
        Cells; without validation cells nothing is evaluated.
    measure
        Gives loss, accuracy and what else there is of a data set.
    """

    optimizer: Any  # of the base class, which mypy does not read
    control: Any

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        arguments: TrainingArguments,
        train: TokenDataset,
        validation: TokenDataset | None,
        measure: Measure,
    ) -> None:
        self.network, self.recipe, self.measure = network, recipe, measure
        self.began = time.monotonic()
        self.seconds_before: float | None = None
        callbacks: list[TrainerCallback] = [_Reporter(len(train)), _Epochs(train)]
        if recipe.patience is not None and validation is not None:
            callbacks.append(_EarlyStopping(recipe.patience))
        super().__init__(
            model=network,
            args=arguments,
            data_collator=collate,
            train_dataset=train,
            eval_dataset=validation,
            callbacks=callbacks,
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the groups of :func:`parameter_groups`."""
        if self.optimizer is None:
            recipe, network = self.recipe, self.network
            config = network.bert.config
            groups = parameter_groups(
                network,
                config.num_hidden_layers,
                recipe.learning_rate,
                recipe.layer_decay,
                recipe.weight_decay,
                times_wider(config, recipe.base_width),
            )
            make, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = make(groups, **options)
        return self.optimizer

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What the task measures over all validation cells, without dropout."""
        cells: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        found = self.measure(self.network, cells)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def take(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint."""
        self._load_from_checkpoint(str(checkpoint))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the seconds of training so far; those before a stop are in the history of the checkpoint."""
        if self.seconds_before is None:
            self.seconds_before = max((entry.get("seconds", 0.0) for entry in self.state.log_history), default=0.0)
        logs["seconds"] = round(self.seconds_before + time.monotonic() - self.began, 1)
        super().log(logs, start_time)


def training_arguments(
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    cpu: bool,
    half: str | None,
    validates: bool,
    saves: bool,
    more: dict[str, Any],
) -> TrainingArguments:
    """Arguments of transformers.Trainer for a recipe.

    Parameters
    ----------
    recipe
        Settings.
    folder
        Where checkpoints go.
    seed
        Of dropout and of the order of the cells.
    cpu
        Whether to train on the CPU though there is a CUDA device.
    half
        "bf16" or "fp16" for mixed precision, or None.
    validates
        Whether there are validation cells.
    saves
        Whether checkpoints are written.
    more
        Arguments that take the place of ours, such as ``{"report_to": "tensorboard", "save_steps": 100}``.

    Raises
    ------
    DataError
        If one of `more` does not exist, is a parameter of the training itself, or transformers refuses it.
    """
    _check_names(more)
    ours: dict[str, Any] = {
        **arguments_of(recipe),
        "output_dir": str(folder),
        "seed": seed,
        "use_cpu": cpu,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "logging_steps": 10,
        "save_strategy": "epoch" if saves else "no",
        "save_total_limit": 1,
        "eval_strategy": "epoch" if validates else "no",
        "dataloader_pin_memory": not cpu,
        "ddp_find_unused_parameters": False,
    }
    if half is not None:
        ours[half] = True
    if recipe.patience is not None and validates:
        ours |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    if saves and "save_steps" in more:
        ours["save_strategy"] = "steps"
    try:
        arguments = TrainingArguments(**(ours | more))
        for reporter in get_reporting_integration_callbacks(arguments.report_to):
            reporter()  # which asks for its package
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        if not more:
            raise
        hint = ""
        if "load_best_model_at_end" in str(error):
            hint = " With patience= checkpoints are written where it is validated, and nowhere else."
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"arguments={more!r} cannot be used. {reason}.{hint}") from error
    if arguments.n_gpu > 1:  # a packed batch cannot be cut for nn.DataParallel; several devices: one process each
        arguments._n_gpu = 1
    return arguments


def _check_names(more: dict[str, Any]) -> None:
    parameters = OF_CALL | {field.name: field.name for field in fields(Recipe)}
    if taken := dict.fromkeys(f"{parameters[name]}=" for name in more if name in parameters):
        raise DataError(
            f"arguments={more!r}: settings of the training are parameters of the call itself. Write there: "
            f"{', '.join(taken)}."
        )
    known = {field.name for field in fields(TrainingArguments) if field.init}
    if unknown := [str(name) for name in more if name not in known]:
        hint = did_you_mean(unknown, known - parameters.keys() | set(parameters.values()))
        raise DataError(
            f"arguments={more!r}: {unknown[0]!r} is no argument of transformers.TrainingArguments.{hint} "
            "help(transformers.TrainingArguments) lists them all."
        )


def arguments_of(recipe: Recipe) -> dict[str, Any]:
    """Those settings of a recipe that are arguments of transformers.Trainer."""
    return {name: kind(getattr(recipe, field)) for name, (field, kind) in OF_RECIPE.items()}


def is_over(history: list[dict[str, Any]], arguments: TrainingArguments, patience: int) -> bool:
    """Whether the last `patience` validations in a history brought nothing better than the best before them."""
    name = f"eval_{str(arguments.metric_for_best_model).removeprefix('eval_')}"
    values = [entry[name] for entry in history if name in entry]
    best = np.argmax if arguments.greater_is_better else np.argmin
    return bool(values) and len(values) - 1 - int(best(values)) >= patience


class _EarlyStopping(TrainerCallback):
    """Stops where :func:`is_over` says so, by the history: checkpoints keep it, so that a stopped run goes on alike."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """After the loss is in the history."""
        control.should_training_stop |= is_over(state.log_history, args, self.patience)


class _Epochs(TrainerCallback):
    """Tells the training cells which epoch begins, also where a training is taken up again."""

    def __init__(self, cells: TokenDataset) -> None:
        self.cells = cells

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Before the first batch of the epoch is asked for."""
        self.cells.begin_epoch(int(state.epoch or 0))


class _Reporter(TrainerCallback):
    """Progress in cells, and one line of the log for every epoch."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells, self.shown = n_cells, ExitStack()
        self.losses: list[float] = []

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.per_step = args.train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
        self.left = round(self.n_cells * args.num_train_epochs)
        self.bar = self.shown.enter_context(progress(self.left, "train"))
        self.advance(state.global_step * self.per_step)

    def advance(self, n: int) -> None:
        """Move the bar on; the last step may have fewer cells."""
        self.bar(min(n, self.left))
        self.left -= min(n, self.left)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Advance by the cells of the step."""
        self.advance(self.per_step)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Keep the training losses of this epoch."""
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **more: Any) -> None:
        """Say how far it is."""
        metrics = more["metrics"]
        loss = f"training loss {np.mean(self.losses):.4f}, " if self.losses else ""
        self.losses = []
        logg.info(
            f"    epoch {state.epoch:.3g}, step {state.global_step}: {loss}validation loss {metrics['eval_loss']:.4f}, "
            f"accuracy {metrics['eval_accuracy']:.3f}"
        )

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.shown.close()
