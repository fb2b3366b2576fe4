"""Folders of tokens as `datasets.Dataset.save_to_disk` writes them (Arrow), and the reference with it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata.counts import ROWS_PER_BLOCK
from scgeneformer._adata.disk.arrow_columns import from_arrow, is_scalar
from scgeneformer._engine.sequences import as_sequences, check_sequences, genes_of, place_in_cell, ranking_of
from scgeneformer._engine.tokens import Tokens, concatenate, offsets_of
from scgeneformer._errors import DataError, MissingKeyError
from scgeneformer._foreign import parse_json, read_json
from scgeneformer._optional import require

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import pandas as pd

    from scgeneformer._engine.vocabulary import Vocabulary

SUFFIX = ".dataset"  # as the reference names them
IDS, LENGTH, OBS_NAMES = "input_ids", "length", "obs_names"
STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
METADATA = b"scgeneformer"  # of the Arrow schema: JSON with `ranking` and `version`
EXTRA = ("pyarrow", "datasets", "Reading and writing folders of tokens")


class TokenFile:
    """The cells in a folder of tokens, as one model reads them.

    The files are mapped into memory: what is read takes the memory of one block, whatever the size of the folder.

    Parameters
    ----------
    path
        The folder.
    vocabulary
        Of the model. Tokens that are not its own are refused when they are read.
    truncate
        Cut cells that are longer than the input size, instead of refusing them.
    drop_duplicates
        Keep the first of tokens that a cell holds twice, instead of refusing them.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    DataError
        If it is no such folder, was written for another vocabulary, or disagrees with itself.
    MissingExtraError
        If pyarrow is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        vocabulary: Vocabulary,
        *,
        truncate: bool = False,
        drop_duplicates: bool = False,
    ) -> None:
        self.path, self.vocabulary = Path(path).expanduser(), vocabulary
        check_readable(vocabulary)
        self.truncate, self.drop_duplicates = truncate, drop_duplicates
        self._table = _open_table(self.path)
        self._ids = _column_of_ids(self._table, self.path)
        metadata = self._table.schema.metadata or {}
        written = _read_note(metadata, METADATA, self.path)
        if written and written.get("ranking") != ranking_of(vocabulary):
            raise DataError(
                f"The tokens in {self.path} were written for a model with other genes or medians than those of the "
                "model that is asked for. Name the one they are for: model='...'."
            )
        parts = [np.diff(chunk.offsets.to_numpy()) for chunk in self._ids.chunks]
        self.lengths: np.ndarray = np.concatenate([np.empty(0, np.int64), *parts])
        """Tokens of each cell in the file, (n_obs,) int64."""
        _check_lengths(self._table, self.lengths, self.path)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self._ids)

    @property
    def columns(self) -> list[str]:
        """Names of the columns with one value per cell, without the length."""
        return [field.name for field in self._table.schema if is_scalar(field.type) and field.name != LENGTH]

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray | pd.api.extensions.ExtensionArray:
        """One of the :attr:`columns` as `obs` stores it, of all cells or of some."""
        if name not in self.columns:
            known = ", ".join(map(repr, self.columns)) or "none"
            raise MissingKeyError(f"{self.path} has no column {name!r} with one value per cell; there are: {known}.")
        column = self._table.column(name)
        _validate(column, name, self.path)
        classes = _classes(self._table, name, self.path)
        try:
            return from_arrow(column if rows is None else column.take(rows), classes)
        except ValueError as error:
            raise DataError(f"{self.path}: the column {name!r} cannot be read: {error}.") from error

    def rows(self, start: int, stop: int) -> Tokens:
        """The cells `start` to `stop`, checked; a view of the file where it lies in one piece and as int32."""
        return self._checked([(start, stop)])

    def take(self, rows: np.ndarray) -> Tokens:
        """The given cells in the given order, checked, as a copy."""
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        return self._checked([(rows[a], rows[b - 1] + 1) for a, b in pairwise([0, *cuts, len(rows)]) if b > a])

    def blocks(self) -> Iterator[tuple[int, Tokens, np.ndarray]]:
        """Yield (first row, tokens, their number of genes) of consecutive cells, as `CellTokens.blocks`."""
        for start in range(0, self.n_obs, ROWS_PER_BLOCK):
            tokens = self.rows(start, min(start + ROWS_PER_BLOCK, self.n_obs))
            yield start, tokens, self.n_genes(tokens)

    def n_genes(self, tokens: Tokens) -> np.ndarray:
        """Genes of some cells, (n_cells,) int32."""
        return np.maximum(tokens.lengths - self.vocabulary.n_special, 0).astype(np.int32)

    def _checked(self, runs: list[tuple[int, int]]) -> Tokens:
        """The cells from one number to another, of each run; cut and freed of duplicates where that was asked for."""
        vocabulary = self.vocabulary
        chunks = [chunk for start, stop in runs for chunk in self._ids.slice(start, stop - start).chunks]
        cells = np.concatenate([np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in runs)])
        try:
            parts = [_tokens_of(chunk) for chunk in chunks]
            tokens = parts[0] if len(parts) == 1 else concatenate(parts)
            twice = check_sequences(tokens, vocabulary, cells)
            self._check_mendable(tokens, twice, cells)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None
        lengths = tokens.lengths
        bare = (lengths > 0) & (lengths == vocabulary.n_special)  # special tokens and nothing else: an empty cell
        if not (twice.any() or bare.any() or lengths.max(initial=0) > vocabulary.input_size):
            return tokens
        kept = Tokens(tokens.ids[~twice], offsets_of(~twice)[tokens.offsets])
        return as_sequences(genes_of(kept, vocabulary), vocabulary)

    def _check_mendable(self, tokens: Tokens, twice: np.ndarray, cells: np.ndarray) -> None:
        """Refuse what may be mended, unless it is to be."""
        if not self.drop_duplicates and twice.any():
            place = int(np.flatnonzero(twice)[0])
            cell, _ = place_in_cell(tokens, place)
            raise DataError(
                f"Cell {cells[cell]} holds the token {tokens.ids[place]} twice, as where an Ensembl ID was listed "
                "twice. Keep the first of each: drop_duplicates=True."
            )
        most, lengths = self.vocabulary.input_size, tokens.lengths
        if not self.truncate and lengths.max(initial=0) > most:
            cell = int(lengths.argmax())
            raise DataError(
                f"Cell {cells[cell]} has {lengths[cell]:,} tokens, and the model takes {most:,}: are these the tokens "
                "of another model? If not, keep the first of each cell: truncate=True."
            )


def check_readable(vocabulary: Vocabulary) -> None:
    """Refuse models that read more of a cell than folders of tokens hold: the order of its genes at one time point."""
    if vocabulary.encoding.n_positions is not None:
        raise DataError(
            "The model reads bins of values, and folders of tokens hold the order of the genes alone. Give it counts, "
            "or name a model of the rank-value encoding: model='...'."
        )
    if vocabulary.encoding.n_times > 1:
        raise DataError(
            f"The model reads cells at {vocabulary.encoding.n_times} time points, and folders of tokens hold one. "
            "Give it counts, or name a model of one time point: model='...'."
        )


def _open_table(path: Path) -> Any:
    """The Arrow table in a folder, mapped into memory."""
    pa = require(*EXTRA)
    import pyarrow.ipc

    if not path.exists():
        raise FileNotFoundError(f"There is no folder {path}.")
    if (path / SPLITS).is_file():
        names = _read_state(path, SPLITS).get("splits", [])
        raise DataError(f"{path} holds several data sets; name one of them: {', '.join(str(path / n) for n in names)}.")
    if not (path / STATE).is_file():
        raise DataError(
            f"{path} is no folder of tokens: there is no {STATE} in it. It must be one that the reference's tokenizer, "
            "gf.datasets.write_tokens or datasets.Dataset.save_to_disk wrote."
        )
    state = _read_state(path, STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"{path} holds a selection of its rows. Load it with datasets, and save flatten_indices().")
    try:
        names = [str(entry["filename"]) for entry in state["_data_files"]]
        if outside := [name for name in names if Path(name).name != name or "\\" in name]:
            raise DataError(f"{path / STATE} names {outside[0]!r}, which is no file of this folder. Nothing was read.")
        files = [path / name for name in names]
        table = pa.concat_tables([pyarrow.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files])
        columns = table.column_names  # which must be text
    except (OSError, KeyError, TypeError, UnicodeDecodeError, MemoryError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}. Is the folder complete?") from error
    if twice := [name for i, name in enumerate(columns) if name in columns[:i]]:
        raise DataError(f"{path} has several columns {twice[0]!r}. Rename or remove all but one of them.")
    return table


def _read_state(path: Path, name: str) -> dict[str, Any]:
    """What one of the JSON files of a folder says."""
    try:
        found = read_json(path / name)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {name}: {error}. Is the folder complete?") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} cannot be read: {name} holds a {type(found).__name__}. Is the folder complete?")
    return found


def _read_note(metadata: dict[bytes, bytes], key: bytes, path: Path) -> dict[str, Any]:
    """What was noted about an Arrow table, as JSON."""
    try:
        found = parse_json(metadata.get(key, b"{}"))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: its note {key.decode()!r} is no JSON ({error}).") from error
    return found if isinstance(found, dict) else {}


def _validate(column: Any, name: str, path: Path) -> None:
    """Refuse a column whose parts lead out of the file: Arrow itself would follow them."""
    import pyarrow as pa

    try:
        column.validate(full=True)
    except (pa.ArrowException, MemoryError) as error:
        raise DataError(f"{path}: the column {name!r} is damaged: {error}. Fetch or copy the folder again.") from error


def _column_of_ids(table: Any, path: Path) -> Any:
    """The column with the tokens."""
    import pyarrow.types as t

    if IDS not in table.column_names:
        columns = ", ".join(map(repr, table.column_names)) or "none"
        raise DataError(f"{path} has no column {IDS!r} with the tokens of each cell; the columns are: {columns}.")
    column = table.column(IDS)
    kind = column.type
    if not ((t.is_list(kind) or t.is_large_list(kind)) and t.is_integer(kind.value_type)):
        raise DataError(f"{path}: the column {IDS!r} must hold lists of whole numbers, and holds {kind}.")
    _validate(column, IDS, path)
    if column.null_count:
        raise DataError(f"{path}: the column {IDS!r} has no value for {column.null_count} cells. Leave these out.")
    return column


def _tokens_of(lists: Any) -> Tokens:
    """One piece of the column of tokens; a view of it if it holds int32."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.values.slice(offsets[0], offsets[-1] - offsets[0])
    if values.null_count:
        raise DataError(f"the column {IDS!r} holds lists with missing values. Leave these cells out.")
    try:
        ids = values.cast("int32").to_numpy()
    except ValueError as error:
        raise DataError(f"the column {IDS!r} holds numbers that are no tokens: {error}.") from error
    return Tokens(ids, offsets - offsets[0])


def _check_lengths(table: Any, lengths: np.ndarray, path: Path) -> None:
    """Whether the file's own column of lengths, if it has one, agrees."""
    if LENGTH not in table.column_names or not is_scalar(table.schema.field(LENGTH).type):
        return
    _validate(table.column(LENGTH), LENGTH, path)
    stated = table.column(LENGTH).to_numpy()
    if len(wrong := np.flatnonzero(stated != lengths)):
        cell = wrong[0]
        raise DataError(
            f"{path}: {LENGTH!r} of cell {cell} is {stated[cell]}, but the cell has {lengths[cell]} tokens "
            f"({len(wrong)} such cells). Remove the column {LENGTH!r} if the tokens are right."
        )


def _classes(table: Any, name: str, path: Path) -> list[str]:
    """Names of the classes of a column that holds their numbers (`ClassLabel`)."""
    try:
        feature = _read_note(table.schema.metadata or {}, b"huggingface", path)["info"]["features"][name]
        return list(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else []
    except (KeyError, TypeError):
        return []
