from __future__ import annotations

from typing import Annotated, Any

import typer

import scgeneformer as gf
from scgeneformer._cli.cells import cells_of
from scgeneformer._cli.options import (
    Cells,
    CountsLayer,
    Device,
    Dtype,
    GeneIds,
    InPlace,
    Model,
    Out,
    Overwrite,
    PreviousLayer,
    Resume,
    UseRaw,
    target_of,
)
from scgeneformer._cli.parts import parts_of


def numbers(text: str) -> list[int]:
    """Read whole numbers, separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number, and no list of them such as -2,-1.") from None


Layers = Annotated[
    list[str],
    typer.Option(
        "--layer",
        metavar="N[,N...]",
        help="Hidden layer: 0 = embedding output, n = after block n, -1 = last. Several: one pass.",
    ),
]
Columns = Annotated[
    list[str] | None, typer.Option("--groupby", help="Column of obs: also one embedding per group. Repeatable.")
]


def embed(
    file: Cells,
    out: Out = None,
    in_place: InPlace = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    model: Model = None,
    layer: Layers = ["-2"],  # noqa: B006  typer reads it, nobody changes it
    pooling: Annotated[str, typer.Option(help="mean (of the genes), cls or first.")] = "mean",
    groupby: Columns = None,
    agg: Annotated[str, typer.Option(help="How the cells of a group are combined: mean or median.")] = "mean",
    counts_layer: CountsLayer = None,
    use_raw: UseRaw = False,
    gene_ids: GeneIds = None,
    previous_layer: PreviousLayer = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens in one forward pass.")] = None,
    key_added: Annotated[str | None, typer.Option(help="Key in obsm, instead of X_geneformer.")] = None,
) -> None:
    """Embed every cell with Geneformer.

    Adds obsm['X_geneformer'], for sc.pp.neighbors(adata, use_rep="X_geneformer"). Says first how long it will take.
    """
    target = target_of(file, out, in_place)
    layers = [n for text in layer for n in numbers(text)]
    choices: dict[str, Any] = {"pooling": pooling, "agg": agg, "groupby": groupby or None}
    with (
        parts_of(target, resume=resume) as parts,
        cells_of(file, target, model, overwrite=overwrite or in_place, within=parts) as adata,
    ):
        gf.tl.embed_cells(
            adata,
            model,
            layer=layers,
            out=parts,
            counts_layer=counts_layer,
            use_raw=use_raw or None,
            gene_ids=gene_ids,
            previous_layer=previous_layer,
            device=device,
            dtype=dtype,
            tokens_per_batch=tokens_per_batch,
            key_added=key_added,
            **choices,
        )
    typer.echo(f"Cell embeddings are in {target}")
