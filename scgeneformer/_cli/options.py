"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(metavar="FILE", help="AnnData file, .h5ad or .zarr (cells × genes).")]
Cells = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="AnnData file, .h5ad or .zarr (cells × genes), or folder of tokens, .dataset."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Name (see the command models), directory or org/repo on the hub."),
]
CountsLayer = Annotated[
    str | None, typer.Option("--counts-layer", help="Layer with raw or log1p-normalised counts, instead of X.")
]
UseRaw = Annotated[bool, typer.Option("--use-raw", help="Take the counts from adata.raw.")]
GeneIds = Annotated[
    str | None,
    typer.Option("--gene-ids", help="Column of var with Ensembl IDs or symbols, instead of the one found by itself."),
]
PreviousLayer = Annotated[
    str | None, typer.Option("--previous-layer", help="Layer with the counts before, for models of two time points.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="New file for data and results, .h5ad or .zarr.")]
InPlace = Annotated[bool, typer.Option("--in-place", help="Put the results into FILE itself.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file named by --out if it exists.")]


def target_of(file: Path, out: Path | None, in_place: bool) -> Path:
    """File that the results go to."""
    if (out is None) != in_place:
        raise typer.BadParameter("Say where the results go: either --out NEWFILE or --in-place.")
    return file if out is None else out
