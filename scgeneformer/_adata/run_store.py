"""Finished parts of a long run on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST, CHOICES, PARTS = "manifest", "choices", "parts"


class RunStore:
    """A zarr store with one group of arrays per finished part.

    A part is written beside its place and moved there in one step, so that a reader, or the run that goes on, never
    sees half of one. Parts carry checksums; damaged ones count as missing.

    Parameters
    ----------
    path
        Folder of the store; made if it does not exist.
    manifest
        All that the parts depend on.
    choices
        What a run chose for itself and has to choose again when it goes on, such as the size of batches.

    Raises
    ------
    DataError
        If the folder holds something else, or the parts of another run.
    """

    def __init__(self, path: str | Path, manifest: dict[str, Any], **choices: int) -> None:
        import zarr

        self.path = Path(path)
        text = json.dumps(_plain(manifest), sort_keys=True)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            stored = _manifest(self.path)
            if stored is None:
                raise DataError(f"out={str(path)!r} exists and is not the store of such a run. Name a new folder.")
            if stored != text:
                changed = ", ".join(repr(name) for name in _differences(json.loads(stored), json.loads(text)))
                raise DataError(
                    f"out={str(path)!r} holds the parts of a run with other parameters or data (different: {changed}). "
                    "Repeat the same call to go on with it, or name a new folder."
                )
        else:
            zarr.open_group(self.path, mode="a").attrs.update({CHOICES: json.dumps(choices), MANIFEST: text})
        self.choices: dict[str, int] = json.loads(str(zarr.open_group(self.path, mode="r").attrs[CHOICES]))
        self.parts = self.path / PARTS
        self.parts.mkdir(exist_ok=True)
        for half in self.parts.glob(".*"):  # of a run that was killed
            shutil.rmtree(half, ignore_errors=True)

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Store a part, all of it or nothing."""
        import zarr

        half = self.parts / f".{name}"
        group = zarr.open_group(half, mode="w")
        for key, array in arrays.items():
            if len(array):  # zarr has no chunks of nothing
                group[key] = array
        group.attrs["empty"] = json.dumps({k: [str(a.dtype), a.shape] for k, a in arrays.items() if not len(a)})
        group.attrs["checksum"] = _checksum(arrays)
        shutil.rmtree(self.parts / name, ignore_errors=True)
        half.rename(self.parts / name)

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Read a part back, None if it is missing or damaged."""
        import zarr

        if not (self.parts / name).is_dir():
            return None
        try:
            group = zarr.open_group(self.parts / name, mode="r")
            arrays = {key: np.asarray(array[...]) for key, array in group.arrays()}
            for key, (dtype, shape) in json.loads(str(group.attrs["empty"])).items():
                arrays[key] = np.empty(shape, dtype=dtype)
            return arrays if group.attrs["checksum"] == _checksum(arrays) else None
        except (OSError, KeyError, ValueError, RuntimeError):
            return None

    def __iter__(self) -> Iterator[str]:
        """Names of the parts."""
        return iter(sorted(part.name for part in self.parts.iterdir() if not part.name.startswith(".")))


def _manifest(path: Path) -> str | None:
    import zarr

    try:
        return str(zarr.open_group(path, mode="r").attrs[MANIFEST])
    except (OSError, KeyError, ValueError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return value.item() if isinstance(value, np.generic) else value


def _differences(one: dict, other: dict) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key}:{arrays[key].dtype}:{arrays[key].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()
