"""Files of strangers: read whole, and never more of them than there is a use for."""

from __future__ import annotations

import json
import os
import zipfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

MOST_TEXT = 64 * 2**20  # bytes of a table; of the published models the largest has 4 MB
MOST_JSON = 16 * 2**20  # read, JSON takes up to 25 times its size; the largest vocabulary of scGPT has 1.4 MB


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file of at most `most` bytes.

    Raises
    ------
    ValueError
        If it has more, or is something else, such as a pipe.
    OSError
        If it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is no file")
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise ValueError(f"{path.name} has {size:,} bytes, and at most {most:,} are read")
        return file.read(size)


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """Read a JSON file of at most `most` bytes.

    Raises
    ------
    ValueError
        If it has more, is something else, or holds no JSON, or lists within lists without end.
    OSError
        If it cannot be read.
    """
    return parse_json(read_bytes(path, most))


def parse_json(content: bytes | str) -> Any:
    """Read JSON.

    Raises
    ------
    ValueError
        If it is none, or holds lists within lists without end.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it holds lists within lists without end") from error


def stored_members(file: BinaryIO) -> dict[str, int]:
    """Members of a zip archive, as numpy and torch write them, and their bytes.

    Raises
    ------
    ValueError
        If they unpack to more than the archive has bytes: are compressed, or lie over each other.
    zipfile.BadZipFile
        If it is no archive.
    """
    members = zipfile.ZipFile(file).infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is a compressed archive, and those that are read are not")
    if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
        raise ValueError("its members have more bytes than the file")
    return {member.filename: member.file_size for member in members}
