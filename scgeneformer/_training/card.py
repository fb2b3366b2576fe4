"""The model card of a trained model: data, split, metrics, settings, seed."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEMPLATE = """---
library_name: scgeneformer
tags: [single-cell, Geneformer, transcriptomics]
---

# {title}

{about}

```python
import scgeneformer as gf
{usage}
```

## Data

{data}

## Metrics

{metrics}

## Training

{training}

{more}Versions: {versions}.
"""
ROWS = 50  # of the table of losses


def model_card(
    title: str,
    about: str,
    usage: str,
    *,
    data: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    training: Mapping[str, Any],
    more: Mapping[str, str] | None = None,
) -> str:
    """Markdown text of a model card.

    Parameters
    ----------
    title, about
        Heading, and what the model does.
    usage
        Lines of Python that use it.
    data
        Name and value of facts about cells, classes and split.
    metrics
        Metrics of each part, such as ``{"test": {"accuracy": 0.9}}``.
    training
        Name and value of settings.
    more
        Heading and text of further sections.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("scgeneformer", "torch", "transformers"))
    rows = [
        f"| {part} | {name.replace('n_test', 'number').replace('_', ' ')} | {value:.4g} |"
        for part, values in metrics.items()
        for name, value in values.items()
        if isinstance(value, int | float)
    ]
    table = "\n".join(["| counted | metric | value |", "|---|---|---|", *rows]) if rows else "Nothing was held out."
    return TEMPLATE.format(
        title=title,
        about=about,
        usage=usage,
        data=_bullets(data),
        metrics=table,
        training=_bullets(training),
        more="".join(f"## {heading}\n\n{text}\n\n" for heading, text in (more or {}).items()),
        versions=versions,
    )


def curve_table(history: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of the losses of a training, at most fifty rows.

    Parameters
    ----------
    history
        What Trainer logged. A row is a validation, beside the mean of the training losses since the one before; without
        validations it is one of these losses.
    """
    validated = any("eval_loss" in entry for entry in history)
    rows, losses = [], []
    for entry in history:
        losses += [entry["loss"]] if "loss" in entry else []
        if ("eval_loss" if validated else "loss") in entry:
            told = [sum(losses) / len(losses) if losses else None, entry.get("eval_loss"), entry.get("eval_accuracy")]
            shown = " | ".join("" if value is None else f"{value:.4f}" for value in told)
            rows.append(f"| {entry['step']} | {entry['epoch']:.3g} | {shown} |")
            losses = []
    every = -(-len(rows) // ROWS) or 1
    head = ["| step | epoch | training loss | validation loss | validation accuracy |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows[::-1][::every][::-1]])


def _bullets(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
