from __future__ import annotations

from typing import Annotated, Any

import typer

import scgeneformer as gf
from scgeneformer._cli.cells import cells_of
from scgeneformer._cli.embed import Columns, Layers, numbers
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
    Sample,
    Seed,
    UseRaw,
    target_of,
)
from scgeneformer._cli.parts import parts_of


def embed_genes(
    file: Cells,
    out: Out = None,
    in_place: InPlace = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    model: Model = None,
    layer: Layers = ["-2"],  # noqa: B006  typer reads it, nobody changes it
    genes: Annotated[list[str] | None, typer.Option("--genes", "-g", help="Gene. Repeatable. Without: all.")] = None,
    groupby: Columns = None,
    agg: Annotated[str, typer.Option(help="How cells are combined: mean, var or median (cannot be resumed).")] = "mean",
    min_cells: Annotated[int, typer.Option(help="Results over fewer cells with the gene are left empty.")] = 1,
    sample: Sample = None,
    seed: Seed = 0,
    counts_layer: CountsLayer = None,
    use_raw: UseRaw = False,
    gene_ids: GeneIds = None,
    previous_layer: PreviousLayer = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens in one forward pass.")] = None,
    key_added: Annotated[str | None, typer.Option(help="Key in varm, instead of geneformer.")] = None,
) -> None:
    """Embed every gene with Geneformer, in the context of all cells and of groups of cells.

    Adds varm['geneformer'], varm['geneformer_n_cells'] and, with --groupby, varm['geneformer_<column>'].
    """
    target = target_of(file, out, in_place)
    chosen: dict[str, Any] = {"genes": genes or None, "groupby": groupby or None, "agg": agg}
    with (
        parts_of(target, resume=resume) as parts,
        cells_of(file, target, model, overwrite=overwrite or in_place, within=parts) as adata,
    ):
        gf.tl.embed_genes(
            adata,
            model,
            layer=[n for text in layer for n in numbers(text)],
            min_cells=min_cells,
            sample=sample,
            seed=seed,
            out=None if agg == "median" and not resume else parts,
            counts_layer=counts_layer,
            use_raw=use_raw or None,
            gene_ids=gene_ids,
            previous_layer=previous_layer,
            device=device,
            dtype=dtype,
            tokens_per_batch=tokens_per_batch,
            key_added=key_added,
            **chosen,
        )
    typer.echo(f"Gene embeddings are in {target}")
