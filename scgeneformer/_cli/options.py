"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

import scgeneformer as gf
from scgeneformer._checks import did_you_mean

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
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or, on CUDA, tf32.")]
ModelOut = Annotated[Path, typer.Option("--out", "-o", help="Directory of the trained model.")]
OverwriteModel = Annotated[bool, typer.Option("--overwrite", help="Replace the model in --out.")]
Split = Annotated[str | None, typer.Option(help="Column of obs with train, validation and test.")]
By = Annotated[
    list[str] | None, typer.Option("--split-by", help="Column of obs such as donor, never on both sides. Repeatable.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Setting of the recipe, such as learning_rate=1e-4. Repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="New file for data and results, .h5ad or .zarr.")]
InPlace = Annotated[bool, typer.Option("--in-place", help="Put the results into FILE itself.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file named by --out if it exists.")]
Sample = Annotated[int | None, typer.Option(help="Work on a random sample of at most so many cells.")]
Seed = Annotated[int, typer.Option(help="Of all that is random.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a command that was stopped, if there is one.")]


def target_of(file: Path, out: Path | None, in_place: bool) -> Path:
    """File that the results go to."""
    if (out is None) != in_place:
        raise typer.BadParameter("Say where the results go: either --out NEWFILE or --in-place.")
    return file if out is None else out


def with_settings(texts: list[str] | None, **given: Any) -> dict[str, Any]:
    """Arguments of a call: those given, and of NAME=VALUE texts; values are numbers, true, false, null or text."""
    settings = dict(_setting(text) for text in texts or [])
    known = [field.name for field in fields(gf.models.Recipe)]
    if unknown := [name for name in settings if name not in known]:
        raise typer.BadParameter(
            f"--set {unknown[0]}=...: {unknown[0]} is no setting of the recipe.{did_you_mean(unknown[:1], known)} "
            "What else can be chosen has an option, see --help."
        )
    return given | settings


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--set {text!r} is not of the form NAME=VALUE, such as epochs=3.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
