"""The table of models known by name."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from scgeneformer._errors import ModelError

TABLE = Path(__file__).parent / "models.toml"


class HubFile(NamedTuple):
    """What a file on the hub must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """One model known by name.

    Parameters
    ----------
    name
        Its name here.
    licence
        Licence of the weights.
    repo, subfolder, revision
        Where it is on the hub; empty for a model that lies in this package.
    files
        Every file it needs, by path in the repository, weights last.
    dictionaries
        Those of them that are dictionaries.
    layers, width, parameters, input_size, n_genes, special_tokens
        What it is like.
    aliases
        Other names.
    folder
        Where a model of this package lies.
    """

    name: str
    licence: str
    repo: str = ""
    subfolder: str = ""
    revision: str = ""
    files: dict[str, HubFile] = field(default_factory=dict, hash=False)
    dictionaries: tuple[str, ...] = ()
    layers: int | None = None
    width: int | None = None
    parameters: int | None = None
    input_size: int | None = None
    n_genes: int | None = None
    special_tokens: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def n_tokens(self) -> int:
        """Size of its vocabulary, special tokens included."""
        return (self.n_genes or 0) + len(self.special_tokens)


def entries() -> dict[str, Entry]:
    """All models known by name, in the order of the table."""
    return _read(TABLE)


def find(name: str) -> Entry | None:
    """Return the entry called `name`, in any case, or by an alias or its place on the hub; None if there is none."""
    for entry in entries().values():
        names = (entry.name, *entry.aliases, *([f"{entry.repo}/{entry.subfolder}"] if entry.repo else []))
        if name.lower() in [known.lower() for known in names]:
            return entry
    return None


def unknown(name: str) -> ModelError:
    """Build the error for a name that means nothing."""
    known = list(entries())
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1)
    hint = f" Did you mean {find(close[0]).name!r}?" if close else ""  # type: ignore[union-attr]
    return ModelError(
        f"There is no model {name!r}.{hint} Models known by name: {', '.join(known)}. Others are given as a local "
        "directory that exists, or as org/repo[/subfolder][@revision] on the Hugging Face hub."
    )


@lru_cache(maxsize=8)
def _read(table: Path) -> dict[str, Entry]:
    content = tomllib.loads(table.read_text(encoding="utf-8"))
    dictionaries = content.get("dictionaries", {})
    return {name: _entry(name, dict(row), dictionaries, table.parent) for name, row in content["models"].items()}


def _entry(name: str, row: dict, dictionaries: dict, folder: Path) -> Entry:
    if "folder" in row:
        return Entry(name, **{**row, "folder": folder / row["folder"]})
    shared = dict(dictionaries[row.pop("dictionaries")])
    beside, own = shared.pop("files"), row.pop("files")
    files = {path: HubFile(**content) for path, content in {**own, **beside}.items()}
    return Entry(
        name=name,
        files=dict(sorted(files.items(), key=lambda item: item[1].bytes)),
        dictionaries=tuple(beside),
        aliases=tuple(row.pop("aliases", ())),
        special_tokens=tuple(shared.pop("special_tokens")),
        **row,
        **shared,
    )
