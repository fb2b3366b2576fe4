"""The head of a classifier and what its classes are, read from a model's files when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from scgeneformer._errors import ModelError
from scgeneformer.models._file_tensors import file_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from scgeneformer._engine.class_head import ClassHead
    from scgeneformer.models._model import Model

BLOCK = "scgeneformer"  # entry of config.json
CELLS, GENES = "cells", "genes"
STOCK = {  # architecture of transformers -> what it classifies
    "BertForSequenceClassification": CELLS,
    "BertForTokenClassification": GENES,
}


@dataclass(frozen=True)
class Task:
    """One thing that a classifier tells.

    Parameters
    ----------
    label
        Column of `obs` it was trained on, or the name that was given to it.
    classes
        Names of the classes, in the order of the logits.
    """

    label: str
    classes: list[str]


@dataclass(frozen=True, eq=False)
class Classifier:
    """Head of a model, and what it means.

    Parameters
    ----------
    kind
        "cells" or "genes".
    pooling
        What the head reads of a cell, a name of `pooling.POOLINGS`.
    tasks
        What it tells, in the order of the logits.
    head
        The head, in float32 on the CPU.
    """

    kind: str
    pooling: str
    tasks: list[Task]
    head: ClassHead

    @property
    def sizes(self) -> list[int]:
        """Classes of each task."""
        return [len(task.classes) for task in self.tasks]


_classifiers: WeakKeyDictionary[Model, Classifier] = WeakKeyDictionary()  # a head goes when its model does


def load_classifier(model: Model, kind: str) -> Classifier:
    """Return the classifier that a model is; read once.

    Parameters
    ----------
    model
        The model; from a directory of ours, or of the reference (a stock `BertForSequenceClassification` or
        `BertForTokenClassification`).
    kind
        "cells" or "genes".

    Raises
    ------
    ModelError
        If it is no classifier of this kind, or its head does not fit its config.
    """
    if (found := _classifiers.get(model)) is None:
        found = _classifiers[model] = _read(model)
    if found.kind != kind:
        other = {CELLS: "gf.tl.classify", GENES: "gf.tl.classify_genes"}[found.kind]
        raise ModelError(f"{model.name} classifies {found.kind}, not {kind}. Use {other}.")
    return found


def describe(kind: str, pooling: str, head: str, tasks: list[Task]) -> dict[str, Any]:
    """Entries of config.json that tell what a classifier is; those of the stock classes included."""
    stock = next((name for name, of in STOCK.items() if of == kind), None)
    if head != ("mlp" if kind == CELLS else "linear") or (kind == CELLS and pooling == "mean"):
        stock = "BertModel"  # transformers would read another token, or lack a layer, or have one too many
    entries: dict[str, Any] = {
        BLOCK: {"kind": kind, "pooling": pooling, "head": head, "tasks": [vars(task) for task in tasks]},
        "architectures": [stock],
    }
    if len(tasks) == 1:
        entries["id2label"] = dict(enumerate(tasks[0].classes))
        entries["label2id"] = {name: i for i, name in enumerate(tasks[0].classes)}
    return entries


def _read(model: Model) -> Classifier:
    from scgeneformer._engine.class_head import ClassHead

    if model.files is None:
        raise ModelError(f"{model.name} was built in memory, without a head. Take a classifier from its files.")
    config, tensors = model.files.layout.read_config(model.files.config), file_tensors(model)
    if missing := [name for name in ("classifier.weight", "classifier.bias") if name not in tensors]:
        raise ModelError(
            f"{model.name} is no classifier: {model.files.weights} has no {missing[0]}. Train one with "
            "gf.tl.train_classifier or gf.tl.train_gene_classifier."
        )
    kind, pooling, tasks = _meaning(config, model)
    _check(tensors, tasks, model)
    return Classifier(kind, pooling, tasks, ClassHead.of({n: t.detach().float() for n, t in tensors.items()}))


def _meaning(config: Mapping[str, Any], model: Model) -> tuple[str, str, list[Task]]:
    """Kind, pooling and tasks as our block in the config tells, or as those of the stock classes."""
    if (block := config.get(BLOCK)) is not None:
        try:
            tasks = [Task(str(task["label"]), [str(name) for name in task["classes"]]) for task in block["tasks"]]
            if block["kind"] not in (CELLS, GENES):
                raise ValueError(f"kind {block['kind']!r}")
            return block["kind"], str(block["pooling"]), tasks
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{BLOCK!r} in {model.files.config} cannot be read: {error!r}.") from error  # type: ignore[union-attr]
    kinds = [kind for name, kind in STOCK.items() if name in (config.get("architectures") or [])]
    if not kinds:
        raise ModelError(
            f"config.json of {model.name} does not say what it classifies: architectures is "
            f"{config.get('architectures')!r}, not one of {', '.join(STOCK)}."
        )
    try:
        names = dict(config.get("id2label") or {})
        classes = [str(names[i]) for i in sorted(names, key=int)] or ["LABEL_0", "LABEL_1"]
    except (TypeError, ValueError) as error:
        raise ModelError(f"id2label in the config of {model.name} does not number the classes: {error}.") from error
    return kinds[0], "first", [Task("class", classes)]


def _check(tensors: Mapping[str, torch.Tensor], tasks: list[Task], model: Model) -> None:
    n, d = sum(len(task.classes) for task in tasks), model.width
    shapes = {
        "classifier.weight": (n, d),
        "classifier.bias": (n,),
        "bert.pooler.dense.weight": (d, d),
        "bert.pooler.dense.bias": (d,),
    }
    for name, shape in shapes.items():
        if name in tensors and tensors[name].shape != shape:
            raise ModelError(
                f"The head of {model.name} does not fit its config: {name} is {tuple(tensors[name].shape)}, "
                f"not {shape} ({n} classes, width {d})."
            )
