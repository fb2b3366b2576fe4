"""How a model is trained: every setting in one place, and published ones by name."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._checks import did_you_mean
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE = Path(__file__).with_name("recipes.toml")
CHANGED = "; changed: "  # in a source
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial")


@dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    Parameters
    ----------
    pooling
        What the head reads of a cell: "mean" over its genes (what :func:`scgeneformer.tl.embed_cells` stores), "cls"
        (the ``<cls>`` token), or "first" (the first token, as the stock `BertForSequenceClassification` does). Not
        used for genes.
    head
        "linear", or "mlp": a dense layer and tanh before it.
    num_layers
        Blocks to keep, from the first on; None keeps all.
    frozen_layers
        Blocks, from the first on, that stay as they are.
    freeze_embeddings
        Whether the embeddings stay as they are, too.
    add_cls
        Put a ``<cls>`` token in front of every cell if the model has none; it is learned.
    init
        "pretrained", or "random": from scratch, with the model's vocabulary and config.
    config
        Entries of the BERT config to change, with ``init="random"``, such as ``{"hidden_size": 128}``.
    base_width
        Width (`hidden_size`) of the model for which rates and spreads were found: a model of another width is then
        trained by the maximal update parametrisation (Yang et al. 2022), which takes them over. Only in pretraining;
        the width of an attention head must be the same, and the feed-forward width in proportion. None trains every
        width alike.
    positions
        False trains without position information: the rank of a gene in its cell is not told to the model.
    lora
        Rank of low-rank adapters (Hu et al. 2021) on the queries and values, which are trained in place of the
        encoder's own weights and merged into them at the end; 0 trains the weights themselves. Needs the extra "lora".
    lora_alpha
        Their scale; None takes twice the rank.
    max_tokens
        Tokens of a cell in training, special ones included; None takes the model's input size.
    epochs
        Passes over the training cells.
    batch_size
        Cells of one step on one device.
    accumulation
        Batches whose gradients are added up before a step.
    learning_rate
        Largest learning rate, that of the head.
    layer_decay
        Factor of the learning rate from each block to the one before.
    schedule
        "linear", "cosine", "polynomial", "constant_with_warmup" or "constant" (without warm-up), as in transformers.
    warmup
        Steps until the largest learning rate; below 1 a share of all steps.
    weight_decay
        Weight decay of AdamW; biases and layer norms do not decay.
    max_grad_norm
        Norm to which gradients are clipped.
    class_weights
        "balanced" weighs each class by the inverse of its number of cells; None weighs all cells alike.
    dropout
        Dropout in encoder and head; None takes that of the config.
    patience
        Stop when the validation loss has not become smaller for so many epochs, and keep the best model; None trains
        all epochs and keeps the last.
    source
        Where the settings are from.

    Raises
    ------
    DataError
        If a setting makes no sense.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::3].copy()
    >>> recipe = gf.models.Recipe(learning_rate=1e-3, frozen_layers=4, max_tokens=32)
    >>> trained = gf.tl.train_classifier(adata, "cell_type", model="mini", recipe=recipe)
    >>> gf.get.classification_df(adata, "cell_type").index.tolist()
    ['fine-tuned']
    """

    pooling: str = "mean"
    head: str = "linear"
    num_layers: int | None = None
    frozen_layers: int = 0
    freeze_embeddings: bool = False
    add_cls: bool = False
    init: str = "pretrained"
    config: dict[str, Any] | None = None
    base_width: int | None = None
    positions: bool = True
    lora: int = 0
    lora_alpha: float | None = None
    max_tokens: int | None = None
    epochs: float = 1
    batch_size: int = 12
    accumulation: int = 1
    learning_rate: float = 5e-5
    layer_decay: float = 1.0
    schedule: str = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.001
    max_grad_norm: float = 1.0
    class_weights: str | None = None
    dropout: float | None = None
    patience: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise DataError(f"{name}={value!r} does not exist; choose one of {', '.join(map(repr, choices))}.")
        for name, (least, most, whole) in LIMITS.items():
            _check_number(name, getattr(self, name), least, most, whole)
        for name in SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise DataError(f"{name}={value!r} must be True or False.")
        if not isinstance(self.config, dict | None):
            raise DataError(f"config={self.config!r} must be a dictionary, such as {{'hidden_size': 128}}.")
        if self.config is not None and self.init != "random":
            raise DataError("config changes the shape of the model, which needs random weights. Take init='random'.")
        if self.init == "random" and self.lora:
            raise DataError(
                "lora trains adapters of pretrained weights, which init='random' has not. Leave one of them out."
            )
        if self.lora_alpha is not None and not self.lora:
            raise DataError("lora_alpha scales adapters, and there are none. Give their rank, such as lora=8.")

    def to_dict(self) -> dict[str, Any]:
        """The settings that are not None, to be stored."""
        return {name: value for name, value in asdict(self).items() if value is not None}


CHOICES: dict[str, tuple] = {
    "pooling": ("mean", "cls", "first"),
    "head": ("linear", "mlp"),
    "init": ("pretrained", "random"),
    "schedule": SCHEDULES,
    "class_weights": (None, "balanced"),
}
SWITCHES = ("freeze_embeddings", "add_cls", "positions")
LIMITS: dict[str, tuple[float, float, bool]] = {  # least, most, whole number; None is allowed where it is the default
    "num_layers": (1, 10_000, True),
    "frozen_layers": (0, 10_000, True),
    "base_width": (1, 1_000_000, True),
    "lora": (0, 10_000, True),
    "lora_alpha": (1e-6, 1e6, False),
    "max_tokens": (2, 1_000_000, True),
    "epochs": (1e-6, 1e6, False),
    "batch_size": (1, 1_000_000, True),
    "accumulation": (1, 1_000_000, True),
    "learning_rate": (1e-12, 10.0, False),
    "layer_decay": (1e-6, 1.0, False),
    "warmup": (0, 1e9, False),
    "weight_decay": (0, 10, False),
    "max_grad_norm": (1e-6, 1e9, False),
    "dropout": (0, 0.99, False),
    "patience": (1, 1_000_000, True),
}
OF_CLASSIFIERS = ("pooling", "head", "add_cls", "lora", "lora_alpha", "class_weights")
OF_PRETRAINING = ("base_width",)
_OPTIONAL = {field.name for field in fields(Recipe) if field.default is None}


def _check_number(name: str, value: Any, least: float, most: float, whole: bool) -> None:
    if value is None and name in _OPTIONAL:
        return
    number = isinstance(value, int) if whole else isinstance(value, int | float)
    if not number or isinstance(value, bool) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise DataError(f"{name}={value!r} must be {kind} from {least:g} to {most:g}.")


def check_use(recipe: Recipe, others: tuple[str, ...], function: str) -> None:
    """Refuse a setting of `others` that is not its default: `function` has no use for it.

    Raises
    ------
    DataError
        If there is one.
    """
    if used := _used(recipe, others):
        raise DataError(f"{used[0]}={getattr(recipe, used[0])!r} is no setting of {function}. Leave it out.")


def _used(recipe: Recipe, others: tuple[str, ...]) -> list[str]:
    """Those of the settings `others` that are not their default."""
    default = Recipe()
    return [name for name in others if getattr(recipe, name) != getattr(default, name)]


def find_recipe(recipe: str | Recipe, changes: dict[str, Any], others: tuple[str, ...] = ()) -> Recipe:
    """Recipe by name, or as given, with some settings changed; its source then says which.

    Parameters
    ----------
    recipe
        A name, or settings.
    changes
        Settings to change.
    others
        Settings that mark the named recipes of other functions, which are not for this one.

    Raises
    ------
    DataError
        If there is no recipe or no setting of a name.
    """
    known = named_recipes()
    names = [name for name, one in known.items() if not _used(one, others)]
    if not isinstance(recipe, str | Recipe):
        raise DataError(f"recipe={recipe!r} is neither a name nor a Recipe; names are: {', '.join(names)}.")
    if isinstance(recipe, str):
        if recipe not in names:
            wrong = "is for another function" if recipe in known else "does not exist"
            raise DataError(f"recipe={recipe!r} {wrong}; choose one of {', '.join(map(repr, names))}.")
        recipe = known[recipe]
    settings = {field.name for field in fields(Recipe)}
    if unknown := [name for name in changes if name not in settings]:
        hint = did_you_mean(unknown[:1], settings) or f" Settings are: {', '.join(sorted(settings - {'source'}))}."
        raise DataError(f"{unknown[0]}= is no parameter and no setting of a recipe.{hint}")
    return changed(recipe, changes)


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some settings changed; its source then says which."""
    new = replace(recipe, **changes)
    differing = [name for name in changes if name != "source" and getattr(new, name) != getattr(recipe, name)]
    if not differing or not new.source:
        return new
    source, _, before = new.source.partition(CHANGED)
    names = dict.fromkeys([*before.split(", "), *differing] if before else differing)
    return replace(new, source=f"{source}{CHANGED}{', '.join(names)}")


@cache
def named_recipes() -> dict[str, Recipe]:
    """All recipes that have a name."""
    return {name: Recipe(**entry) for name, entry in tomllib.loads(TABLE.read_text(encoding="utf-8")).items()}
