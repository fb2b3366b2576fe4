"""Which cells of an AnnData train, validate and test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.labels import Labels
from scgeneformer._errors import DataError, MissingKeyError
from scgeneformer._training import splits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

WORDS = {
    **dict.fromkeys(("train", "training"), splits.TRAIN),
    **dict.fromkeys(("validation", "val", "valid", "eval"), splits.VALIDATION),
    "test": splits.TEST,
}


@dataclass(frozen=True, eq=False)
class Split:
    """Part, or fold, of every cell.

    Parameters
    ----------
    parts
        0 (train), 1 (validation), 2 (test), or the number of the fold; -1 for cells in none. (n_obs,) int.
    folds
        Whether these are folds.
    record
        How they came about, to be stored.
    """

    parts: np.ndarray
    folds: bool
    record: dict[str, Any]

    @property
    def column(self) -> Any:
        """The parts as a column of `obs`."""
        names = [str(i) for i in range(int(self.parts.max()) + 1)] if self.folds else list(splits.PARTS)
        return pd.Categorical.from_codes(self.parts.astype(np.int64), categories=pd.Index(names))


def find_split(
    adata: AnnData,
    labels: Labels | Sequence[Labels],
    *,
    split: str | None = None,
    split_by: str | Sequence[str] | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    n_folds: int | None = None,
    seed: int = 42,
) -> Split:
    """Take the split from a column of `obs`, or divide the cells.

    Parameters
    ----------
    adata
        The data.
    labels
        What is learned.
    split
        Column with "train", "validation" and "test", or with numbers of folds.
    split_by
        Columns whose groups are never on both sides.
    fractions
        Of the cells in train, validation and test.
    n_folds
        Folds instead of parts.
    seed
        Of what is random.

    Raises
    ------
    MissingKeyError
        If a column does not exist.
    DataError
        If the cells cannot be divided so, a class would not train, or `split` puts a group on both sides.
    """
    each = [labels] if isinstance(labels, Labels) else list(labels)
    codes = np.stack([one.codes for one in each], axis=1)
    names = [name for one in each for name in one.classes]
    groups = None if split_by is None else find_groups(adata, split_by)
    if split is not None:
        parts, folds = _read(adata, split, n_folds is not None)
        parts = np.where((codes >= 0).any(axis=1), parts, splits.NONE)
        if groups is not None:
            _check_groups(parts, groups.codes, groups.names, split)
        if folds:
            splits.check_folds(codes, parts, names)
        else:
            splits.check_train(np.where(parts[:, None] >= 0, codes, -1), parts == splits.TRAIN, names)
        record: dict[str, Any] = {"column": split}
    else:
        by_name = np.argsort(adata.obs_names.to_numpy(str), kind="stable")
        units = None if groups is None else groups.codes[by_name]
        folds = n_folds is not None
        ordered = (
            splits.split(codes[by_name], units, fractions, seed, names=names)
            if n_folds is None
            else splits.folds(codes[by_name], units, n_folds, seed, names=names)
        )
        parts = np.empty(adata.n_obs, dtype=ordered.dtype)
        parts[by_name] = ordered
        sizes = {"n_folds": n_folds} if folds else {"fractions": np.array(fractions, dtype=np.float64)}
        record = {"by": np.array([] if groups is None else groups.columns, dtype=str), **sizes, "seed": seed}
    return Split(parts, folds, {**record, "checksum": _checksum(adata, parts)})


def _read(adata: AnnData, column: str, folds: bool) -> tuple[np.ndarray, bool]:
    """Parts, or folds, in a column of `obs`, and whether they are folds."""
    if column not in adata.obs:
        present = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise MissingKeyError(f"split={column!r} is no column of adata.obs; the columns are: {present}.")
    text = adata.obs[column].astype(object)
    known = text.notna().to_numpy()
    words = [str(value).strip().lower() if there else "" for value, there in zip(text, known, strict=True)]
    if folds:
        if bad := sorted({word for word, there in zip(words, known, strict=True) if there and not word.isdigit()}):
            raise DataError(
                f"adata.obs[{column!r}] holds {bad[0]!r}; with n_folds= it must hold numbers of folds from 0."
            )
        return np.array([int(word) if there else -1 for word, there in zip(words, known, strict=True)]), True
    if bad := sorted({word for word, there in zip(words, known, strict=True) if there and word not in WORDS}):
        raise DataError(f"adata.obs[{column!r}] holds {bad[0]!r}; it must hold train, validation and test.")
    return np.array([WORDS.get(word, -1) for word in words]), False


def _check_groups(parts: np.ndarray, codes: np.ndarray, names: list[str], column: str) -> None:
    """Refuse if a group is in two parts."""
    for code, name in enumerate(names):
        found = np.unique(parts[(codes == code) & (parts >= 0)])
        if len(found) > 1:
            raise DataError(
                f"adata.obs[{column!r}] puts cells of {name!r} into {len(found)} parts. Leave out split_by=."
            )


def _checksum(adata: AnnData, parts: np.ndarray) -> str:
    """Digest of which cell is in which part, whatever the order of the rows."""
    lines = sorted(f"{name}\t{part}" for name, part in zip(adata.obs_names, parts, strict=True) if part >= 0)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
