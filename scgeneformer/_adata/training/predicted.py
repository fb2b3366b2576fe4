"""The class that a classifier tells of each cell or gene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def most_probable(probability: np.ndarray, classes: list[str]) -> Any:
    """Most probable class of each row as a `pandas.Categorical`, missing where nothing is told.

    Parameters
    ----------
    probability
        (n, n_classes) float32, NaN where nothing is told.
    classes
        Names of the classes, which become the categories.
    """
    empty = np.isnan(probability).any(axis=1)
    codes: np.ndarray = np.where(empty, -1, np.nan_to_num(probability).argmax(axis=1))
    return pd.Categorical.from_codes(codes, categories=pd.Index(classes))
