"""Find the counts of an AnnData and read them as CSR row blocks, wherever and however they are stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.dask_chunks import is_dask
from scgeneformer._adata.disk.damage import place_of, told_if_damaged
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.row_groups import csc_rows, dask_rows
from scgeneformer._adata.scale import LOG_BASES, evident_base
from scgeneformer._adata.sound import rows_of, sound
from scgeneformer._errors import DataError, MissingKeyError, missing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from anndata import AnnData

ROWS_PER_BLOCK = 2048
SAMPLE_ROWS = 1000  # rows looked at to tell counts from log-normalised values
LOG1P_MAX = 20.0  # log1p of any count per cell stays below: log(5e8)
LOG1P = "log1p of normalised counts"
TOKEN_FILE = "token file"  # where the counts are of cells whose tokens gf.datasets.read_tokens read
NO_COUNTS = "its tokens came from a file, without counts"


@dataclass(frozen=True, eq=False)
class Counts:
    """One matrix of counts in an AnnData, opened for reading by rows.

    Parameters
    ----------
    adata
        The object it belongs to.
    name
        How a user would write it, such as ``adata.layers['counts']``.
    key
        The layer, or None.
    raw
        Whether it is ``adata.raw``.
    read
        Gives the rows from one number to another, as stored.
    log_base
        Base of the logarithm if the values are log(1 + x), NaN if they are counts (or any linear scale).
    previous
        Whether they are those of the cells at an earlier time.
    """

    adata: AnnData
    name: str
    key: str | None
    raw: bool
    read: Callable[[int, int], Any]
    log_base: float = np.nan
    previous: bool = False

    @property
    def var(self) -> pd.DataFrame:
        """Annotation of the columns."""
        return in_memory(self.adata.raw.var if self.raw else self.adata.var)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.adata.n_obs

    @property
    def matrix(self) -> Any:
        """The matrix itself, as stored."""
        return _matrix(self.adata, self.key, self.raw)

    def of_rows(self, rows: Any) -> Counts:
        """The same counts, but of the cells of `rows` alone: some rows of the matrix, as stored."""
        return replace(self, adata=ad.AnnData(shape=(rows.shape[0], 0)), read=_reader(rows, self.previous))

    def without_data(self) -> Counts:
        """Name and scale alone, to be sent to where :meth:`of_rows` is called."""
        return replace(self, adata=ad.AnnData(), read=_nothing)

    def blocks(self, rows: int = ROWS_PER_BLOCK) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Yield (first row, counts of up to `rows` cells) over all cells, checked and on a linear scale."""
        for start in range(0, self.n_obs, rows):
            yield start, self.rows(start, min(start + rows, self.n_obs))

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of the cells `start` to `stop`, (stop - start, n_vars) CSR float32 or float64 on a linear scale."""
        return self.linear(_as_csr(self.read(start, stop)))

    def linear(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """The values of `block` checked and on a linear scale."""
        _check_values(block.data, self)
        if np.isnan(self.log_base):
            return block
        data = np.expm1(block.data.astype(np.float64) * np.log(self.log_base))
        return sp.csr_matrix((data, block.indices, block.indptr), shape=block.shape)

    def sample(self, n: int = SAMPLE_ROWS) -> Iterator[sp.csr_matrix]:
        """The cells of :meth:`sampled`, as stored."""
        return (_as_csr(self.read(start, stop)) for start, stop in self.sampled(n))

    def sampled(self, n: int = SAMPLE_ROWS) -> list[tuple[int, int]]:
        """First row and end of at most ten blocks, spread evenly over all cells, with up to `n` of them."""
        size = -(-n // 10)
        starts = np.unique(np.linspace(0, max(0, self.n_obs - size), 10).astype(int)).tolist()
        return [(a, min(a + size, b)) for a, b in zip(starts, [*starts[1:], self.n_obs], strict=True)]


def open_counts(
    adata: AnnData, counts_layer: str | None = None, use_raw: bool | None = None, *, previous: bool = False
) -> Counts:
    """Find the counts and tell their scale.

    Parameters
    ----------
    adata
        The data.
    counts_layer
        Layer that holds them; None = ``X`` (or ``raw`` if `use_raw`).
    use_raw
        Take ``adata.raw``.
    previous
        They are those of an earlier time: a row of NaN is a cell of which nothing is known, and read as one of zeros.

    Raises
    ------
    MissingKeyError
        If there is no such layer, or no raw.
    DataError
        If the values are no counts and no log1p of counts (negative, NaN, infinite).
    """
    if use_raw and counts_layer is not None:
        raise DataError(
            f"counts_layer={counts_layer!r} and use_raw=True name two different matrices. Leave one of them out."
        )
    if counts_layer is not None and counts_layer not in adata.layers:
        raise missing_key("layers", counts_layer, adata.layers)
    if use_raw and adata.raw is None:
        raise MissingKeyError("use_raw=True, and adata.raw is None. Leave use_raw out to take adata.X.")
    if not use_raw and counts_layer is None and adata.X is None:
        reason = f" ({NO_COUNTS})" if is_from_file(adata) else ""
        raise MissingKeyError(f"adata.X is None{reason}. Name the layer with the counts: counts_layer='...'.")
    where = "adata.raw.X" if use_raw else "adata.X" if counts_layer is None else f"adata.layers[{counts_layer!r}]"
    read = _reader(_matrix(adata, counts_layer, bool(use_raw)), previous)
    counts = Counts(adata, where, counts_layer, bool(use_raw), read, previous=previous)
    return replace(counts, log_base=_log_base(counts))


def is_from_file(adata: AnnData) -> bool:
    """Whether the cells are tokens that were read from a file, and nothing is known of their counts."""
    params = adata.uns.get(keys.TOKENS, {}).get("params", {})
    return keys.TOKENS in adata.obsm and params.get("counts") == TOKEN_FILE


def _matrix(adata: AnnData, key: str | None, raw: bool) -> Any:
    return adata.raw.X if raw else adata.X if key is None else adata.layers[key]


def _reader(matrix: Any, previous: bool) -> Callable[[int, int], Any]:
    """Function that reads a range of rows without reading the others."""
    return _known_rows(row_reader(matrix)) if previous else row_reader(matrix)


def _nothing(start: int, stop: int) -> Any:
    raise AssertionError("there are no data behind these counts")


def row_reader(matrix: Any) -> Callable[[int, int], Any]:
    """Function that gives the rows of a matrix from one number to another; what many blocks need is read once."""
    if is_dask(matrix):
        return dask_rows(matrix)
    if getattr(matrix, "format", None) == "csc":
        if not sp.issparse(matrix):
            return csc_rows(matrix)
        matrix = rows_of(matrix)
    place = place_of(matrix)
    if place is None:
        return lambda start, stop: matrix[start:stop]

    def read(start: int, stop: int) -> Any:
        with told_if_damaged(f"{place}, cells {start} to {stop - 1},"):
            return matrix[start:stop]

    return read


def _known_rows(read: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    """The same function, but rows of which all stored values are NaN are zero."""

    def read_known(start: int, stop: int) -> sp.csr_matrix:
        block = _as_csr(read(start, stop))
        missing = np.isnan(block.data)
        if not missing.any():
            return block
        stored = np.diff(block.indptr)
        unknown = np.diff(np.concatenate([[0], np.cumsum(missing)])[block.indptr]) == stored
        data = np.where(np.repeat(unknown, stored), 0, block.data)
        return sp.csr_matrix((data, block.indices, block.indptr), shape=block.shape)

    return read_known


def _log_base(counts: Counts) -> float:
    """Base of the logarithm of log1p values, NaN for counts and other linear scales.

    Fractions are judged by their values; where these do not tell, the note that `sc.pp.log1p` leaves is believed, and
    without it they are taken as log1p with a warning, because counts of fractions that small are rare.
    """
    blocks = list(counts.sample())
    for block in blocks:
        _check_values(block.data, counts)
    values = sp.vstack(blocks, format="csr")
    largest = float(values.data.max(initial=0))
    if largest > LOG1P_MAX or (values.data == np.rint(values.data)).all():
        return np.nan
    note = counts.adata.uns.get("log1p")
    noted = [] if note is None else [float(note.get("base") or np.e)]
    base = evident_base(values, tuple(dict.fromkeys([*noted, *LOG_BASES])))
    fractions = f"{counts.name} holds fractions, up to {largest:.3g}"
    if base is not None:
        logg.info(f"{fractions}: taken as {'counts on another scale' if np.isnan(base) else LOG1P}")
        return base
    because = "as adata.uns['log1p'] says" if noted else "as most such values are"
    elsewhere = "".join(f", or name the counts: {place}" for place in _elsewhere(counts)[:1])
    (logg.info if noted else logg.warning)(
        f"{fractions}, that look like counts neither as they are nor as logarithms: taken as {LOG1P}, {because}. "
        f"If they are no logarithms, multiply them by 1e6, which changes no rank{elsewhere}."
    )
    return noted[0] if noted else np.e


def _as_csr(block: Any) -> sp.csr_matrix:
    """Any kind of rows as a CSR matrix of float32 or float64 with int32 indices and without duplicate entries."""
    if hasattr(block, "compute"):
        block = block.compute()
    if not sp.issparse(block):
        block = np.asarray(block)
        block = block.astype(np.float32) if block.dtype == np.float16 else block  # scipy has no sparse float16
    csr = sound(sp.csr_matrix(block))
    if csr.dtype not in (np.float32, np.float64):
        csr = csr.astype(np.float32 if csr.dtype.itemsize <= 2 else np.float64)
    if not csr.has_canonical_format:
        csr = csr.copy()  # it may share memory with the user's matrix
        csr.sum_duplicates()
    data, indices, indptr = csr.data, csr.indices, csr.indptr
    return sp.csr_matrix((data, indices.astype(np.int32, copy=False), indptr.astype(np.int64)), shape=csr.shape)


def _check_values(values: np.ndarray, counts: Counts) -> None:
    low, high = values.min(initial=0), values.max(initial=0)  # both NaN if any value is
    if low >= 0 and high < np.inf:
        return
    found = "negative values" if low < 0 else "NaN or infinite values"
    reason = " (scaled data?)" if low < 0 else ""
    raise DataError(f"{counts.name} holds {found}{reason}; counts or their log1p are needed. {_remedy(counts)}")


def _remedy(counts: Counts) -> str:
    """What to do with values that are no counts."""
    if places := _elsewhere(counts):
        return f"If they are elsewhere, say so: {' or '.join(places)}."
    return "Go back to the data before sc.pp.scale, and keep the counts: adata.layers['counts'] = adata.X.copy()."


def _elsewhere(counts: Counts) -> list[str]:
    """Where else in this AnnData the counts may be, as parameters."""
    adata, parameter = counts.adata, "previous_layer" if counts.previous else "counts_layer"
    places = [f"{parameter}={name!r}" for name in adata.layers if name != counts.key]
    return places + (["use_raw=True"] if adata.raw is not None and not (counts.raw or counts.previous) else [])


def count_share(counts: Counts, gene_tokens: np.ndarray) -> float:
    """Share of the counts, in a sample of the cells, that lies in genes with a token; NaN if there are no counts."""
    known = gene_tokens >= 0
    total = covered = 0.0
    for block in counts.sample():
        linear = counts.linear(block)
        total += float(linear.sum())
        covered += float(linear[:, known].sum())
    return covered / total if total else np.nan
