"""The model card of a trained model: data, split, metrics, settings, seed."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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

Versions: {versions}.
"""


def model_card(
    title: str,
    about: str,
    usage: str,
    *,
    data: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    training: Mapping[str, Any],
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
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("scgeneformer", "torch", "transformers"))
    rows = [
        f"| {part} | {name.replace('_', ' ')} | {value:.4g} |"
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
        versions=versions,
    )


def _bullets(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
