"""Finished parts of a long run on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata.disk.damage import DAMAGES
from scgeneformer._errors import DataError
from scgeneformer._foreign import parse_json
from scgeneformer._lock import LOCK, Lock
from scgeneformer._publish import beside, told_if_full

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

MANIFEST, CHOICES, PARTS = "manifest", "choices", "parts"
DIGITS = 16  # of the checksum of its input that the name of a part ends with
MOST_SHOWN = 40  # characters of a value that a message shows; a checksum has more
REMEDY = "Repeat the same call on the same data to go on with it; to begin anew, remove the folder or name another."


class RunStore:
    """A zarr store with one group of arrays per finished part.

    A part is written beside its place and moved there in one step, so that a reader, or the run that goes on, never
    sees half of one. So is the store itself. Parts carry checksums of what they were made from, and of themselves;
    damaged ones count as missing.

    It is a context manager: when the block ends, another run may have the store.

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
    BlockingIOError
        If another call works in it, of this process or another.
    """

    def __init__(self, path: str | Path, manifest: dict[str, Any], **choices: int) -> None:
        self.path = Path(path).expanduser().absolute()
        text = json.dumps(_plain(manifest), sort_keys=True)
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            with told_if_full(self.path):
                _make(self.path, {CHOICES: json.dumps(choices), MANIFEST: text})
        stored = _manifest(self.path)
        if stored is None:
            raise DataError(f"{self.path} exists and is not the store of such a run. Name a new folder.")
        if stored != text:
            changed = _differences(json.loads(stored), json.loads(text))
            raise DataError(
                f"{self.path} holds the parts of a run with other parameters or data (different: {changed}). {REMEDY}"
            )
        self.parts = self.path / PARTS
        if link := next((one for one in (self.parts, self.path / LOCK) if one.is_symlink()), None):
            raise DataError(
                f"{link} is a link, which no run makes: what is behind it is left alone. Name a new folder."
            )
        self._lock = Lock(self.path)
        self.choices = _choices(self.path, choices)
        self.parts.mkdir(exist_ok=True)
        for half in self.parts.glob(".*"):  # of a run that was killed
            shutil.rmtree(half, ignore_errors=True)

    def __enter__(self) -> Self:
        """Keep the store to this run."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let others have it."""
        self._lock.release()

    def save(self, name: str, source: str, arrays: dict[str, np.ndarray]) -> None:
        """Store a part, all of it or nothing; `source` is the checksum of what it was made from."""
        import zarr

        half, place = self.parts / f".{name}", self.parts / _folder(name, source)
        with told_if_full(self.path):
            group = zarr.open_group(half, mode="w")
            for key, array in arrays.items():
                if array.size:  # zarr has no chunks of nothing
                    group[key] = array
            group.attrs["empty"] = json.dumps({k: [str(a.dtype), a.shape] for k, a in arrays.items() if not a.size})
            group.attrs["checksum"] = _checksum(arrays)
            shutil.rmtree(place, ignore_errors=True)
            half.rename(place)

    def replace(self, name: str, source: str, arrays: dict[str, np.ndarray]) -> None:
        """Store a part in place of all others."""
        self.save(name, source, arrays)
        for other in self:
            if other != _folder(name, source):
                shutil.rmtree(self.parts / other, ignore_errors=True)

    def load(self, name: str, source: str) -> dict[str, np.ndarray] | None:
        """Read a part back, None if it is missing or damaged.

        Raises
        ------
        DataError
            If it was made from something else.
        """
        self.refuse_others(name, source)
        return self._read(_folder(name, source))

    def refuse_others(self, name: str, source: str) -> None:
        """Raise the error of :meth:`load`, if there is reason to."""
        if (self.parts / _folder(name, source)).is_dir():
            return
        if others := [part.name for part in self.parts.glob(f"{name}-*")]:
            raise DataError(
                f"{self.path} holds {others[0]!r}, made from other counts or genes: the data were changed since. "
                f"{REMEDY}"
            )

    def last(self) -> tuple[str, dict[str, np.ndarray]] | None:
        """Name of the last part, as :meth:`save` was told it, and the part itself; None if there is none."""
        for part in reversed(list(self)):
            if (found := self._read(part)) is not None:
                return part[: -DIGITS - 1], found
        return None

    def _read(self, folder: str) -> dict[str, np.ndarray] | None:
        import zarr

        if not (self.parts / folder).is_dir():
            return None
        try:
            group = zarr.open_group(self.parts / folder, mode="r")
            arrays = {key: np.asarray(array[...]) for key, array in group.arrays()}
            for key, (dtype, shape) in dict(parse_json(str(group.attrs["empty"]))).items():
                arrays[key] = np.zeros(0, dtype=dtype).reshape(shape)
            return arrays if group.attrs["checksum"] == _checksum(arrays) else None
        except DAMAGES:
            return None

    def __iter__(self) -> Iterator[str]:
        """Names of the parts."""
        return iter(sorted(part.name for part in self.parts.iterdir() if not part.name.startswith(".")))


def _make(path: Path, attributes: dict[str, str]) -> None:
    """Make an empty store, all of it or nothing."""
    import zarr

    fresh = beside(path)
    try:
        zarr.open_group(fresh, mode="w").attrs.update(attributes)
        (fresh / PARTS).mkdir()
        with suppress(FileNotFoundError):
            path.rmdir()
        fresh.rename(path)
    except OSError:
        if _manifest(path) is None:  # else another process was faster
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _manifest(path: Path) -> str | None:
    import zarr

    try:
        text = str(zarr.open_group(path, mode="r").attrs[MANIFEST])
        return text if isinstance(parse_json(text), dict) else None
    except DAMAGES:
        return None


def _choices(path: Path, asked: dict[str, int]) -> dict[str, int]:
    """What the first run chose of what is asked for."""
    import zarr

    try:
        found = dict(parse_json(str(zarr.open_group(path, mode="r").attrs[CHOICES])))
        if all(type(found[name]) is int and found[name] > 0 for name in asked):
            return found
    except DAMAGES:
        pass
    raise DataError(f"{path} is damaged: what its run chose cannot be read. Name a new folder.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return value.item() if isinstance(value, np.generic) else value


def _differences(one: dict, other: dict) -> str:
    """What is not the same in two manifests; values that can be read at a glance are shown."""

    def told(key: str) -> str:
        values = [str(known.get(key)) for known in (one, other)]
        shown = f" was {values[0]}, is {values[1]}" if max(map(len, values)) <= MOST_SHOWN else ""
        return f"{key!r}{shown}"

    return ", ".join(told(key) for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key))


def _folder(name: str, source: str) -> str:
    return f"{name}-{source[:DIGITS]}"


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key}:{arrays[key].dtype}:{arrays[key].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[key]).data)
    return digest.hexdigest()
