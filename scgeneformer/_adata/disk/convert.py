"""Copy an AnnData file into another format, h5ad or zarr, without reading its matrices into memory."""

from __future__ import annotations

from typing import Any

from anndata.io import write_elem

from scgeneformer._adata.disk.damage import UNKNOWN, read_known
from scgeneformer._errors import DataError

NESTED = ("anndata", "dict", "raw", "csr_matrix", "csc_matrix")  # encodings of groups whose members are elements
ELEMENTS = {"X", "raw", "layers", "obs", "var", "obsm", "varm", "obsp", "varp", "uns"}
BYTES_AT_A_TIME = 2**24  # as fast as more


def convert(source: Any, target: Any) -> None:
    """Copy the members of one group, and its attributes, into another.

    Numbers are copied piece by piece; what is no plain array of numbers (tables, texts) is read and written as one
    element. What anndata does not know in `uns` is left out.

    Parameters
    ----------
    source
        Group of h5py or zarr.
    target
        The same of the other kind, empty.
    """
    _copy_attributes(source, target)
    sparse = str(source.attrs.get("encoding-type", "")) in NESTED[3:]
    names = set(source)
    for name in ELEMENTS & names if source.attrs.get("encoding-type") == "anndata" else names:
        element = source[name]
        encoding = str(element.attrs.get("encoding-type", ""))
        if encoding in NESTED:
            convert(element, target.create_group(name))
        elif (sparse or encoding == "array") and element.dtype.kind in "biuf" and element.shape and all(element.shape):
            copy_numbers(element, target, name)
        else:
            value = read_known(element)
            if value is not UNKNOWN:
                write_elem(target, name, value)
            elif not element.name.startswith("/uns/"):
                raise DataError(f"{element.name} is {encoding!r}, which this version of anndata cannot read.")


def copy_numbers(source: Any, group: Any, name: str) -> None:
    """Copy an array of numbers into `group`, a few rows at a time."""
    create = group.create_array if hasattr(group, "create_array") else group.create_dataset  # zarr 3; h5py, zarr 2
    target = create(name, shape=source.shape, dtype=source.dtype)
    _copy_attributes(source, target)
    per_chunk = (getattr(target, "chunks", None) or (1,))[0]
    per_row = source.dtype.itemsize * source.size // source.shape[0]
    step = max(1, BYTES_AT_A_TIME // (per_row * per_chunk)) * per_chunk
    for start in range(0, source.shape[0], step):
        target[start : start + step] = source[start : start + step]


def _copy_attributes(source: Any, target: Any) -> None:
    """Copy attributes, all read before the first is written.

    h5py holds its lock while items are gone through one by one; a thread of zarr that frees something of h5py would
    wait for that lock, and the loop for the thread.
    """
    for name, value in dict(source.attrs).items():
        target.attrs[name] = value.tolist() if hasattr(value, "tolist") else value
