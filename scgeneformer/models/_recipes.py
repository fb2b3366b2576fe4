"""List the recipes of training known by name."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from scgeneformer._training.recipe import Recipe, named_recipes


def recipes() -> pd.DataFrame:
    """List the recipes of fine-tuning and pretraining that have a name, and where their settings are from.

    Returns
    -------
    One row per recipe: the settings that differ from "default" (`settings`) and their `source`.

    See Also
    --------
    Recipe : all settings.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> "mindspore" in gf.models.recipes().index
    True
    """
    default = asdict(Recipe())
    rows = {
        name: {
            "settings": ", ".join(
                f"{key}={value!r}" for key, value in asdict(one).items() if key != "source" and value != default[key]
            ),
            "source": one.source,
        }
        for name, one in named_recipes().items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")
