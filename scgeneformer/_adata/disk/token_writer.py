"""Write a folder of tokens that `datasets.load_from_disk`, and the reference with it, reads.

The Arrow files are those that `save_to_disk` writes. The features of the data set are left to be told from the Arrow
schema: since version 4, datasets describes them in words that earlier versions, which the reference is often used with,
refuse to read.
"""

from __future__ import annotations

import json
import uuid
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer._adata.disk.token_files import EXTRA, IDS, INFO, LENGTH, METADATA, STATE
from scgeneformer._engine.sequences import ranking_of
from scgeneformer._engine.tokens import Tokens
from scgeneformer._errors import DataError
from scgeneformer._optional import require
from scgeneformer._publish import check_writable, published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from scgeneformer._engine.vocabulary import Vocabulary

DATA = "data-00000-of-00001.arrow"


def check_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where writing would destroy something.

    Raises
    ------
    DataError
        If there is something that may not be replaced, or is no folder of tokens.
    OSError
        As of :func:`check_writable`.
    """
    check_writable(path, overwrite=True)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / STATE).is_file():
        raise DataError(f"{path} exists and is no folder of tokens; it is not replaced. Name another place.")
    if not overwrite:
        raise DataError(f"{path} exists already. Name another folder, or replace it: overwrite=True.")


def write_folder(
    path: Path,
    blocks: Iterable[tuple[int, Tokens]],
    columns: dict[str, Any],
    vocabulary: Vocabulary,
    advance: Callable[[int], object],
    *,
    overwrite: bool = False,
) -> int:
    """Write cells block by block; cells without a token are left out.

    The folder appears when it is complete.

    Parameters
    ----------
    path
        The folder.
    blocks
        (first row, tokens) of consecutive cells.
    columns
        Arrow arrays (n_obs,) by name, beside the tokens and their number.
    vocabulary
        That of the tokens.
    advance
        Is told how many cells were done.
    overwrite
        Whether a folder that is there in the end is replaced.

    Returns
    -------
    Number of cells that were written.
    """
    pa = require(*EXTRA)
    import pyarrow.ipc

    types = {IDS: pa.list_(pa.int32()), LENGTH: pa.int64(), **{name: column.type for name, column in columns.items()}}
    facts = {"ranking": ranking_of(vocabulary), "version": version("scgeneformer")}
    schema = pa.schema(list(types.items()), metadata={METADATA: json.dumps(facts)})
    n_written = 0
    with published(path, overwrite=overwrite) as fresh:
        fresh.mkdir()
        with pyarrow.ipc.new_stream(str(fresh / DATA), schema) as writer:
            for first, tokens in blocks:
                lengths = tokens.lengths
                kept = np.flatnonzero(lengths)
                offsets = np.append(tokens.offsets[kept], tokens.offsets[-1]).astype(np.int32)
                ids = pa.ListArray.from_arrays(offsets, tokens.ids)
                rows = pa.array(first + kept)
                batch = [ids, pa.array(lengths[kept]), *(column.take(rows) for column in columns.values())]
                writer.write_batch(pa.record_batch(batch, schema=schema))
                n_written += len(kept)
                advance(len(tokens))
        (fresh / INFO).write_text("{}\n", encoding="utf-8")
        (fresh / STATE).write_text(json.dumps(_state(), indent=2) + "\n", encoding="utf-8")
    return n_written


def _state() -> dict[str, Any]:
    """What datasets keeps beside the data; the fingerprint names what it derives from them in its cache."""
    return {
        "_data_files": [{"filename": DATA}],
        "_fingerprint": uuid.uuid4().hex[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
