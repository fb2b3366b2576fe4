"""AnnData files, h5ad and zarr: open them without reading the matrices, and add results to them."""

from __future__ import annotations

import shutil
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
from anndata.io import read_elem, sparse_dataset, write_elem
from scanpy import logging as logg

from scgeneformer._adata.disk.convert import convert
from scgeneformer._adata.disk.damage import UNKNOWN, read_known
from scgeneformer._adata.writer import SLOTS
from scgeneformer._errors import DataError
from scgeneformer._publish import ZARR, check_writable, published, told_if_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

FRAMES = ("obs", "var")
Changes = list[tuple[str, str, Any]]  # (slot, key, value)


class Format(NamedTuple):
    """How files of one suffix are opened (path, mode), read and written as a whole, copied, and finished."""

    open: Callable[[Path, str], Any]
    read: Callable[[Path], ad.AnnData]
    write: Callable[[ad.AnnData, Path], None]
    copy: Callable[[Path, Path], Any]


@contextmanager
def _open_h5ad(path: Path, mode: str) -> Iterator[Any]:
    import h5py

    with h5py.File(path, mode) as root:
        yield root


@contextmanager
def _open_zarr(path: Path, mode: Any) -> Iterator[Any]:
    import zarr

    # A group opened with its consolidated metadata would not see what is added to it.
    current: Any = {"use_consolidated": False} if int(zarr.__version__.split(".")[0]) >= 3 else {}
    if current and mode == "w":
        current = {"zarr_format": getattr(ad.settings, "zarr_write_format", 2)}
    yield zarr.open_group(str(path), mode=mode, **current)
    if mode != "r":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
            zarr.consolidate_metadata(str(path))


def _write_zarr(adata: ad.AnnData, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)  # anndata's default is ours, too
        adata.write_zarr(path)


FORMATS = {
    ".h5ad": Format(_open_h5ad, ad.read_h5ad, lambda adata, path: adata.write_h5ad(path), shutil.copyfile),
    ".zarr": Format(_open_zarr, ad.read_zarr, _write_zarr, shutil.copytree),
}


def format_of(path: Path) -> Format:
    """Tell the format of a file from its suffix."""
    if path.suffix not in FORMATS:
        raise DataError(f"{path} is of no known kind; the suffix must be {' or '.join(FORMATS)}.")
    return FORMATS[path.suffix]


def check_target(target: Path, *, overwrite: bool, source: Path) -> None:
    """Refuse a target that cannot be written, or is a folder of other things, before anything is computed for it.

    Raises
    ------
    OSError
        As of :func:`check_writable`, and if the target is a folder that is no zarr store.
    """
    check_writable(target, overwrite=overwrite, source=source)
    if target.is_dir() and any(target.iterdir()) and not any((target / name).is_file() for name in ZARR):
        raise FileExistsError(f"{target} is a folder of other things, which are not replaced. Name another place.")


@contextmanager
def opened(path: Path) -> Iterator[ad.AnnData]:
    """Open a file as an AnnData whose `X`, `raw` and layers stay on disk and are read by rows.

    Parameters
    ----------
    path
        h5ad or zarr. Files of anndata before 0.8 are read into memory.

    Raises
    ------
    FileNotFoundError
        If there is none.
    DataError
        If it is no AnnData file.
    """
    form = format_of(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    with form.open(path, "r") if _is_current(path) else _in_memory(path) as root:
        if isinstance(root, ad.AnnData):
            yield root
        else:
            with _explained(path):
                adata = _lazy(root, path)
            yield adata


@contextmanager
def edited(source: Path, target: Path, *, overwrite: bool = False, within: Path | None = None) -> Iterator[ad.AnnData]:
    """Open `source`; what the block adds to the AnnData is in `target` afterwards, if the block succeeds.

    `target` is a copy of `source` with the results, and may be the same file; what the block removes it lacks. It
    appears when it is complete; after an error all files are as they were.

    Parameters
    ----------
    source
        File to read, h5ad or zarr.
    target
        File to write, h5ad or zarr, not necessarily of the same kind.
    overwrite
        Whether `target` may exist already, at the beginning and at the end.
    within
        As for :func:`published`.

    Raises
    ------
    DataError
        If a file is of no known kind, or `source` was changed by somebody else in the meantime.
    OSError
        If `source` does not exist, or `target` cannot be written or does not fit on the disk.
    """
    format_of(target)
    with opened(source) as adata:
        check_target(target, overwrite=overwrite, source=source)
        state, before = _stamp(source), _entries(adata)
        yield adata
        after = _entries(adata)
        new = [(*place, value) for place, value in after.items() if not _same(before.get(place), value)]
    if _stamp(source) != state:
        raise DataError(f"{source} was changed while it was being read. Nothing was written; start again.")
    with told_if_full(target), published(target, within, overwrite=overwrite) as fresh:
        _duplicate(source, fresh)
        _change(fresh, new, [place for place in before if place not in after])


def _is_current(path: Path) -> bool:
    """Whether the elements of a file say how they are encoded."""
    with _explained(path), format_of(path).open(path, "r") as root:
        return root.attrs.get("encoding-type") == "anndata"


@contextmanager
def _in_memory(path: Path) -> Iterator[ad.AnnData]:
    with _explained(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, that the file is old
        adata = format_of(path).read(path)
    yield adata


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, MemoryError):
        raise
    except Exception as error:
        told = ". ".join(str(one).rstrip(".") for one in (error, *getattr(error, "__notes__", ())))
        raise DataError(f"{path} cannot be read as an AnnData file ({path.suffix}): {told}.") from error


def _lazy(root: Any, path: Path) -> ad.AnnData:
    """AnnData with its matrices on disk, without the parts that no function of ours looks at (obsp, varp)."""
    raw = root.get("raw")
    if raw is not None and raw.attrs.get("encoding-type") == "null":  # how None is stored in zarr
        raw = None
    return ad.AnnData(
        X=_matrix(root["X"]) if "X" in root else None,
        layers={key: _matrix(root["layers"][key]) for key in root.get("layers", ())},
        raw=None if raw is None else {"X": _matrix(raw["X"]), "var": read_elem(raw["var"]), "varm": {}},
        **{slot: read_elem(root[slot]) for slot in FRAMES},
        obsm={key: _matrix(root["obsm"][key]) for key in root.get("obsm", ())},
        varm=read_elem(root["varm"]) if "varm" in root else None,
        uns=_notes(root.get("uns", {}), path),
    )


def _notes(group: Any, path: Path) -> dict[str, Any]:
    """What `uns` holds, without what anndata does not know."""
    found = {key: read_known(group[key]) for key in group}
    if unknown := sorted(key for key, value in found.items() if value is UNKNOWN):
        logg.warning(
            f"uns of {path} holds what this version of anndata cannot read: {', '.join(map(repr, unknown))}. It stays "
            "in copies of the same format, and is left out of others."
        )
    return {key: value for key, value in found.items() if value is not UNKNOWN}


def _matrix(element: Any) -> Any:
    """Matrix that reads rows when they are asked for."""
    encoding = element.attrs.get("encoding-type", "")
    if encoding in ("csr_matrix", "csc_matrix"):
        return sparse_dataset(element)
    return element if encoding == "array" else read_elem(element)


def _stamp(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Place, size and time of a file, or of all in a folder: other ones after anything was written."""
    found = {}
    for one in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            told = one.stat()
            found[one] = told.st_ino, told.st_size, told.st_mtime_ns
    return found


def _entries(adata: ad.AnnData) -> dict[tuple[str, str], Any]:
    """Everything in the slots that results go to, by slot and key; columns as they are now."""
    found: dict[tuple[str, str], Any] = {}
    for slot in SLOTS:
        values = getattr(adata, slot)
        found |= {(slot, str(key)): value.copy() if slot in FRAMES else value for key, value in values.items()}
    return found


def _same(old: Any, new: Any) -> bool:
    return old is new or (hasattr(new, "equals") and new.equals(old))


def _duplicate(source: Path, fresh: Path) -> None:
    """Copy a file as it is, into another format piece by piece; by way of memory if it is old."""
    if not _is_current(source):
        _rewrite(source, fresh)
    elif source.suffix == fresh.suffix:
        format_of(source).copy(source, fresh)
    else:
        with format_of(source).open(source, "r") as root, format_of(fresh).open(fresh, "w") as copy:
            convert(root, copy)


def _rewrite(source: Path, fresh: Path) -> None:
    """Read a file into memory and write it."""
    with _in_memory(source) as adata:
        format_of(fresh).write(adata, fresh)


def _change(path: Path, new: Changes, gone: list[tuple[str, str]]) -> None:
    """Write results into a file, and remove from it what is gone."""
    with format_of(path).open(path, "r+") as root:
        for slot, key in gone:
            del root[slot][key]
            if slot in FRAMES:
                order = root[slot].attrs["column-order"]
                root[slot].attrs["column-order"] = [str(known) for known in order if str(known) != key]
        for slot, key, value in new:
            if slot in FRAMES:
                _add_column(root[slot], key, value)
            else:
                write_elem(root[slot] if slot in root else root.create_group(slot), key, value)


def _add_column(frame: Any, name: str, column: pd.Series) -> None:
    """Write one column of a stored data frame and leave the others as they are."""
    write_elem(frame, name, column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array)
    order = [str(known) for known in frame.attrs["column-order"]]
    if name not in order:
        frame.attrs["column-order"] = [*order, name]
