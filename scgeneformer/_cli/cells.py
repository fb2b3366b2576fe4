"""The cells a command works on: those of an AnnData file, or the tokens in a folder as the reference writes them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

import scgeneformer as gf
from scgeneformer._adata.disk.files import check_target, edited, format_of
from scgeneformer._adata.disk.token_files import SUFFIX
from scgeneformer._publish import published, told_if_full

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData


@contextmanager
def cells_of(
    file: Path, target: Path, model: str | None, *, overwrite: bool, within: Path | None = None
) -> Iterator[AnnData]:
    """Open `file`; what the block adds to the cells is in `target` afterwards, as with :func:`edited`."""
    if file.suffix != SUFFIX:
        with edited(file, target, overwrite=overwrite, within=within) as adata:
            yield adata
        return
    if target == file:
        raise typer.BadParameter("Results do not go into a folder of tokens: name a new file, --out NEWFILE.h5ad.")
    form = format_of(target)
    check_target(target, overwrite=overwrite, source=file)
    adata = gf.datasets.read_tokens(file, model)
    yield adata
    with told_if_full(target), published(target, within, overwrite=overwrite) as fresh:
        form.write(adata, fresh)
