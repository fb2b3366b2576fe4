from __future__ import annotations

from typing import Annotated

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
    Out,
    Overwrite,
    PreviousLayer,
    UseRaw,
    target_of,
)


def classify(
    file: Cells,
    classifier: Annotated[str, typer.Argument(help="Directory that the command train wrote, or org/repo on the hub.")],
    out: Out = None,
    in_place: InPlace = False,
    overwrite: Overwrite = False,
    truth: Annotated[str | None, typer.Option(help="Column of obs with the true labels, to judge by.")] = None,
    counts_layer: CountsLayer = None,
    use_raw: UseRaw = False,
    gene_ids: GeneIds = None,
    previous_layer: PreviousLayer = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens in one forward pass.")] = None,
    key_added: Annotated[str | None, typer.Option(help="Key in obs, instead of geneformer_<label>.")] = None,
) -> None:
    """Tell the label of every cell with a fine-tuned model.

    Adds obs['geneformer_<label>'], its probability, and obsm['geneformer_<label>_probability'].
    """
    target = target_of(file, out, in_place)
    with cells_of(file, target, classifier, overwrite=overwrite or in_place) as adata:
        gf.tl.classify(
            adata,
            classifier,
            truth=truth,
            counts_layer=counts_layer,
            use_raw=use_raw or None,
            gene_ids=gene_ids,
            previous_layer=previous_layer,
            device=device,
            dtype=dtype,
            tokens_per_batch=tokens_per_batch,
            key_added=key_added,
        )
    typer.echo(f"Labels are in {target}")
