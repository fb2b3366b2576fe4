"""Which cells of an AnnData train, validate and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata.frames import read_obs
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.training.labels import Labels, digest
from scgeneformer._checks import check_whole
from scgeneformer._errors import DataError
from scgeneformer._training import folds, splits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._adata.groups import Groups

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
    n_folds
        Number of folds; None: parts.
    record
        How they came about, to be stored.
    """

    parts: np.ndarray
    n_folds: int | None
    record: dict[str, Any]

    @property
    def column(self) -> Any:
        """The parts as a column of `obs`."""
        names = list(splits.PARTS) if self.n_folds is None else [str(fold) for fold in range(self.n_folds)]
        return pd.Categorical.from_codes(self.parts.astype(np.int64), categories=pd.Index(names))

    def record_of(self, adata: AnnData, labels: Labels) -> dict[str, Any]:
        """How cells and labels to be told came about: `record`, with a digest of the class of each held-out cell."""
        held_out = self.parts > (splits.TRAIN if self.n_folds is None else splits.NONE)
        return {**self.record, "truth": digest(adata, np.where(held_out, labels.codes, splits.NONE))}


def find_split(
    adata: AnnData,
    labels: Labels | Sequence[Labels] | None,
    *,
    split: str | None = None,
    split_by: str | Sequence[str] | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    n_folds: int | None = None,
    seed: int = 0,
) -> Split:
    """Take the split from a column of `obs`, or divide the cells.

    Parameters
    ----------
    adata
        The data.
    labels
        What is learned; None: nothing that the parts would be balanced by.
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
    check_whole(0, seed=seed)
    if n_folds is None:
        splits.check_fractions(fractions)
    else:
        check_whole(2, n_folds=n_folds)
    each = [Labels("", np.zeros(adata.n_obs, dtype=np.int64), [""])] if labels is None else labels
    each = [each] if isinstance(each, Labels) else list(each)
    codes, names = _joined(each)
    groups = None if split_by is None else find_groups(adata, split_by, asked="split_by")
    if split is not None:
        record: dict[str, Any] = {"column": split}
        parts = np.where((codes >= 0).any(axis=1), _read(adata, split, n_folds), splits.NONE)
        check_parts(parts, each, n_folds)
        if groups is not None:
            _check_groups(parts, groups, split)
    else:
        sizes = {"fractions": np.array(fractions, dtype=np.float64)} if n_folds is None else {"n_folds": n_folds}
        record = {"split_by": np.array([] if groups is None else groups.columns, dtype=str), **sizes, "seed": seed}
        by_name = np.argsort(adata.obs_names.to_numpy(str), kind="stable")
        units = None if groups is None else groups.codes[by_name]
        if groups is not None:
            _check_known(groups, codes)
        parts = np.empty(adata.n_obs, dtype=np.int64)
        parts[by_name] = (
            splits.split(codes[by_name], units, fractions, seed)
            if n_folds is None
            else folds.folds(codes[by_name], units, n_folds, seed, names=names)
        )
    if n_folds is None and labels is not None:
        _say_absent(parts, each)
    return Split(parts, n_folds, {**record, "checksum": digest(adata, parts)})


def _read(adata: AnnData, column: str, n_folds: int | None) -> np.ndarray:
    """Part, or fold, of every cell in a column of `obs`."""
    values = read_obs(adata, [column], "split")[column]
    known = values.notna().to_numpy()
    words = values[known].astype(str).str.strip().str.lower().str.removesuffix(".0")
    number_of = WORDS if n_folds is None else {str(fold): fold for fold in range(n_folds)}
    if bad := sorted(set(words) - set(number_of)):
        holds = ", ".join(splits.PARTS) if n_folds is None else f"with n_folds={n_folds} folds from 0 to {n_folds - 1}"
        raise DataError(f"adata.obs[{column!r}] holds {bad[0]!r}; it must hold {holds}.")
    parts = np.full(adata.n_obs, splits.NONE, dtype=np.int64)
    parts[known] = [number_of[word] for word in words]
    return parts


def check_parts(parts: np.ndarray, labels: Sequence[Labels], n_folds: int | None, where: str = "") -> None:
    """Refuse parts, or folds, with which a class does not train; `where` is said in the error, after the classes."""
    codes, names = _joined(labels)
    if n_folds is None:
        splits.check_train(codes, parts == splits.TRAIN, names, where)
    else:
        folds.check_folds(codes, parts, n_folds, names, where)


def _joined(labels: Sequence[Labels]) -> tuple[np.ndarray, list[str]]:
    """Classes of all labels, (n_obs, n_labels) int64, and their names, one label after the other."""
    return np.stack([one.codes for one in labels], axis=1), [name for one in labels for name in one.classes]


def _check_known(groups: Groups, codes: np.ndarray) -> None:
    """Refuse cells with a label whose group is not known: they could be on either side of it."""
    if n := int(((groups.codes < 0) & (codes >= 0).any(axis=1)).sum()):
        columns = ", ".join(groups.columns)
        raise DataError(
            f"{n} cells with a label have no value in {columns} (split_by=): nobody knows on which side they belong. "
            f"Leave them out: adata = adata[adata.obs[{groups.columns!r}].notna().all(axis=1)].copy()."
        )


def _say_absent(parts: np.ndarray, labels: list[Labels]) -> None:
    """Warn of classes of which a part holds no cell, as happens where whole groups are divided."""
    for part in (splits.VALIDATION, splits.TEST):
        for one in labels:
            there = np.bincount(one.codes[(parts == part) & (one.codes >= 0)], minlength=len(one.classes)) > 0
            if there.any() and (absent := [name for name, has in zip(one.classes, there, strict=True) if not has]):
                logg.warning(
                    f"no {splits.PARTS[part]} cell of {one.column}: {', '.join(map(repr, absent))}. The scores say "
                    "nothing of these classes. Another seed, other fractions or n_folds= may have them."
                )


def _check_groups(parts: np.ndarray, groups: Groups, column: str) -> None:
    """Refuse if a group is in two parts."""
    inside = (parts >= 0) & (groups.codes >= 0)
    counts = pd.crosstab(groups.codes[inside], parts[inside])
    if torn := [groups.names[code] for code in counts.index[(counts > 0).sum(axis=1) > 1]]:
        raise DataError(
            f"adata.obs[{column!r}] puts cells of {torn[0]!r} ({', '.join(groups.columns)}) into several parts. Mend "
            "the column, or leave split_by= out: then the scores may be too good, as cells of one donor are alike."
        )
