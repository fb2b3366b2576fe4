"""The cells of one or several data sets over one vocabulary, as pretraining reads them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from scgeneformer._adata import keys
from scgeneformer._adata.split import find_split
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._adata.writer import Results, write
from scgeneformer._checks import as_names
from scgeneformer._errors import DataError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._adata.split import Split
    from scgeneformer._adata.tokens import CellTokens
    from scgeneformer._engine.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Corpus:
    """Data sets, one behind the other.

    Parameters
    ----------
    adatas
        The data sets.
    sources
        Their cells as the model reads them.
    """

    adatas: list[AnnData]
    sources: list[CellTokens]

    @property
    def slices(self) -> list[slice]:
        """Where the cells of each data set are among those of all."""
        ends = np.cumsum([adata.n_obs for adata in self.adatas]).tolist()
        return [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]

    def split(self, split: str | None, split_by: str | Sequence[str] | None, **more: Any) -> Split:
        """Divide the cells of all data sets as those of one; a donor of the same name in two of them is one donor."""
        columns = [*([] if split_by is None else as_names(split_by)), *([] if split is None else [split])]
        frames = [self._obs(number, columns) for number in range(len(self.adatas))]
        if len(frames) > 1:
            frames = [frame.set_axis(f"{i}:" + frame.index.astype(str)) for i, frame in enumerate(frames)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # names that are not unique: said when they were read
            cells = ad.AnnData(obs=pd.concat(frames))
        return find_split(cells, None, split=split, split_by=split_by, **more)

    def _obs(self, number: int, columns: list[str]) -> pd.DataFrame:
        obs = self.adatas[number].obs
        if missing := [column for column in columns if column not in obs]:
            where = f" of data set {number}" if len(self.adatas) > 1 else ""
            present = ", ".join(map(repr, obs.columns)) or "none"
            raise MissingKeyError(f"{missing[0]!r} is no column of adata.obs{where}; the columns are: {present}.")
        return obs[list(dict.fromkeys(columns))]

    def write_split(self, split: Split) -> None:
        """Store the part of every cell in the AnnData it is from."""
        for adata, some in zip(self.adatas, self.slices, strict=True):
            write(adata, Results(obs={keys.SPLIT: split.column[some]}))


def open_corpus(adata: AnnData | Sequence[AnnData], vocabulary: Vocabulary, **where: Any) -> Corpus:
    """Find counts and genes of one or several data sets.

    Parameters
    ----------
    adata
        The data set, or several.
    vocabulary
        Of the model.
    **where
        As for :func:`open_tokens`; the same for all.

    Raises
    ------
    DataError
        As :func:`open_tokens` does; of several data sets it says which one cannot be used.
    """
    adatas = [adata] if isinstance(adata, ad.AnnData) else list(adata)
    if not adatas or not all(isinstance(one, ad.AnnData) for one in adatas):
        raise DataError(f"adata must be an AnnData or a list of AnnData, and is {adata!r}.")
    sources = []
    for number, one in enumerate(adatas):
        try:
            sources.append(open_tokens(one, vocabulary, **where))
        except DataError as error:
            if len(adatas) == 1:
                raise
            raise type(error)(f"Data set {number}: {error}") from error
    return Corpus(adatas, sources)
