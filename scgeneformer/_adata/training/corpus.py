"""The cells of one or several data sets, AnnData or folders of tokens, over one vocabulary: for pretraining."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anndata as ad
import numpy as np
import pandas as pd

from scgeneformer._adata import keys
from scgeneformer._adata.disk.token_files import OBS_NAMES, TokenFile
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.kind import check_target
from scgeneformer._adata.tokens import CellTokens, open_tokens
from scgeneformer._adata.training.split import find_split
from scgeneformer._adata.writer import Results, write
from scgeneformer._checks import as_names
from scgeneformer._errors import DataError, MissingKeyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from scgeneformer._adata.training.split import Split
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary

IDS_OF_FILE = "its tokens"


class DataSet(Protocol):
    """Cells from one place."""

    @property
    def params(self) -> dict[str, str]:
        """What the tokens depend on."""

    @property
    def names(self) -> np.ndarray:
        """Names of the cells, (n_obs,) str."""

    @property
    def columns(self) -> list[str]:
        """Names of what is known of each cell."""

    def column(self, name: str) -> Any:
        """One of these, (n_obs,)."""

    def blocks(self) -> Iterator[tuple[int, Tokens, np.ndarray]]:
        """Yield (first row, tokens, known genes before truncation) of consecutive cells."""

    def write_split(self, column: Any) -> None:
        """Keep the part of each cell, if there is a place for it."""


@dataclass(frozen=True, eq=False)
class InAnnData:
    """The cells of an AnnData."""

    adata: AnnData
    tokens: CellTokens

    @property
    def params(self) -> dict[str, str]:
        """What the tokens depend on."""
        return self.tokens.params

    @property
    def names(self) -> np.ndarray:
        """Names of the cells."""
        return self.adata.obs_names.to_numpy(str)

    @property
    def columns(self) -> list[str]:
        """Columns of `obs`."""
        return list(self.adata.obs)

    def column(self, name: str) -> Any:
        """One of them."""
        return in_memory(self.adata.obs, [name])[name].array

    def blocks(self) -> Iterator[tuple[int, Tokens, np.ndarray]]:
        """Yield (first row, tokens, known genes before truncation) of consecutive cells."""
        return self.tokens.blocks()

    def write_split(self, column: Any) -> None:
        """Write it into `obs`."""
        write(self.adata, Results(obs={keys.SPLIT: column}))


@dataclass(frozen=True, eq=False)
class InFolder:
    """The cells in a folder of tokens; long ones are cut, and tokens that a cell holds twice are read once."""

    file: TokenFile

    @property
    def params(self) -> dict[str, str]:
        """What the tokens depend on."""
        return {"vocabulary": self.file.vocabulary.checksum, "counts": str(self.file.path), "gene_ids": IDS_OF_FILE}

    @property
    def names(self) -> np.ndarray:
        """Names of the cells, where there are any, else their numbers."""
        named = OBS_NAMES in self.file.columns
        return np.asarray(self.file.column(OBS_NAMES) if named else np.arange(self.file.n_obs)).astype(str)

    @property
    def columns(self) -> list[str]:
        """Columns with one value per cell."""
        return self.file.columns

    def column(self, name: str) -> Any:
        """One of them."""
        return self.file.column(name)

    def blocks(self) -> Iterator[tuple[int, Tokens, np.ndarray]]:
        """Yield (first row, tokens, their number of genes) of consecutive cells."""
        return self.file.blocks()

    def write_split(self, column: Any) -> None:
        """Nothing: the folder stays as it is."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Data sets, one behind the other."""

    sets: list[DataSet]

    def slices(self) -> list[slice]:
        """Where the cells of each data set are among those of all."""
        ends = np.cumsum([len(one.names) for one in self.sets]).tolist()
        return [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]

    def split(self, split: str | None, split_by: str | Sequence[str] | None, **more: Any) -> Split:
        """Divide the cells of all data sets as those of one; a donor of the same name in two of them is one donor."""
        columns = [*([] if split_by is None else as_names(split_by)), *([] if split is None else [split])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # names that are not unique: said when they were read
            cells = ad.AnnData(obs=pd.concat([self._obs(number, columns) for number in range(len(self.sets))]))
        return find_split(cells, None, split=split, split_by=split_by, **more)

    def _obs(self, number: int, columns: list[str]) -> pd.DataFrame:
        one, several = self.sets[number], len(self.sets) > 1
        if missing := [column for column in columns if column not in one.columns]:
            where = f" of data set {number}" if several else ""
            present = ", ".join(map(repr, one.columns)) or "none"
            raise MissingKeyError(f"{missing[0]!r} is no column of adata.obs{where}; the columns are: {present}.")
        names = [f"{number}:{name}" for name in one.names] if several else one.names
        return pd.DataFrame({name: one.column(name) for name in columns}, index=pd.Index(names, dtype=object))

    def write_split(self, split: Split) -> None:
        """Store the part of every cell in the AnnData it is from."""
        for one, some in zip(self.sets, self.slices(), strict=True):
            one.write_split(split.column[some])


def open_corpus(adata: Any, vocabulary: Vocabulary, **where: Any) -> Corpus:
    """Find cells and genes of one or several data sets.

    Parameters
    ----------
    adata
        AnnData, path of a folder of tokens, or several of these.
    vocabulary
        Of the model.
    **where
        As for :func:`open_tokens`; the same for every AnnData.

    Raises
    ------
    DataError
        As :func:`open_tokens` and :class:`TokenFile` do; of several data sets it says which one cannot be used.
    """
    kinds = (ad.AnnData, str, os.PathLike)
    several = [adata] if isinstance(adata, kinds) else list(adata)
    if not several or not all(isinstance(one, kinds) for one in several):
        raise DataError(f"adata must be an AnnData, the path of a folder of tokens, or a list of these, not {adata!r}.")
    sets = []
    for number, one in enumerate(several):
        try:
            sets.append(_open(one, vocabulary, where))
        except DataError as error:
            if len(several) == 1:
                raise
            raise type(error)(f"Data set {number}: {error}") from error
    return Corpus(sets)


def _open(one: AnnData | str | os.PathLike[str], vocabulary: Vocabulary, where: dict[str, Any]) -> DataSet:
    if isinstance(one, ad.AnnData):
        check_target(one)
        return InAnnData(one, open_tokens(one, vocabulary, **where))
    return InFolder(TokenFile(one, vocabulary, truncate=True, drop_duplicates=True))
