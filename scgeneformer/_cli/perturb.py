from __future__ import annotations

from typing import Annotated, Any

import typer

import scgeneformer as gf
from scgeneformer._cli.cells import cells_of
from scgeneformer._cli.embed import Layers, numbers
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
    Resume,
    Sample,
    Seed,
    UseRaw,
    target_of,
)
from scgeneformer._cli.parts import parts_of

Genes = Annotated[
    list[str] | None,
    typer.Option(
        "--genes",
        "-g",
        metavar="GENE[+GENE...]",
        help="Gene; several joined by + are perturbed together. Repeatable. Without: every gene of each cell.",
    ),
]


def perturb(
    file: Cells,
    out: Out = None,
    in_place: InPlace = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    model: Model = None,
    genes: Genes = None,
    mode: Annotated[str, typer.Option(help="delete, overexpress, activate, inhibit, mask or pad.")] = "delete",
    layer: Layers = ["-2"],  # noqa: B006  typer reads it, nobody changes it
    positions: Annotated[str, typer.Option(help="shift, hold or both.")] = "shift",
    sample: Sample = None,
    seed: Seed = 0,
    counts_layer: CountsLayer = None,
    use_raw: UseRaw = False,
    gene_ids: GeneIds = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens in one forward pass.")] = None,
    key_added: Annotated[str | None, typer.Option(help="Key in layers, instead of geneformer_<mode>.")] = None,
) -> None:
    """Perturb genes in silico, and measure how far each cell moves.

    Adds layers['geneformer_<mode>'] for genes, obsm['geneformer_<mode>'] for combinations such as GATA4+TBX5.
    """
    target = target_of(file, out, in_place)
    asked: Any = [tuple(one.split("+")) if "+" in one else one for one in genes] if genes else None
    chosen: dict[str, Any] = {"mode": mode, "positions": positions}
    with (
        parts_of(target, resume=resume) as parts,
        cells_of(file, target, model, overwrite=overwrite or in_place, within=parts) as adata,
    ):
        gf.tl.perturb(
            adata,
            asked,
            model=model,
            layer=[n for text in layer for n in numbers(text)],
            sample=sample,
            seed=seed,
            out=parts,
            counts_layer=counts_layer,
            use_raw=use_raw or None,
            gene_ids=gene_ids,
            device=device,
            dtype=dtype,
            tokens_per_batch=tokens_per_batch,
            key_added=key_added,
            **chosen,
        )
    typer.echo(f"Shifts are in {target}")
