from __future__ import annotations

from typing import Annotated

import typer

import scgeneformer as gf

SHOWN = ["layers", "width", "input_size", "n_genes", "special_tokens", "parameters", "size_mb", "licence", "downloaded"]


def models() -> None:
    """List the models known by name, and which are on this machine."""
    typer.echo(gf.models.available()[SHOWN].to_string())


def download(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name, or org/repo of a model on the hub.")],
) -> None:
    """Fetch a model into the shared Hugging Face cache, for machines without network."""
    typer.echo(str(gf.models.download(model).folder))
