from __future__ import annotations

from typing import Any

import typer

import scgeneformer as gf
from scgeneformer._adata.disk.files import edited, opened
from scgeneformer._adata.disk.token_files import SUFFIX
from scgeneformer._cli.options import (
    CountsLayer,
    File,
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


def tokenize(
    file: File,
    out: Out = None,
    in_place: InPlace = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    model: Model = None,
    counts_layer: CountsLayer = None,
    use_raw: UseRaw = False,
    gene_ids: GeneIds = None,
    previous_layer: PreviousLayer = None,
) -> None:
    """Store the rank-value encoding of every cell.

    Optional: embed encodes on the fly. Adds obsm['geneformer_tokens'], obs['geneformer_n_genes'] and
    obs['geneformer_n_tokens']. With --out NAME.dataset writes a folder that the reference Geneformer reads.
    """
    target = target_of(file, out, in_place)
    where: dict[str, Any] = {"counts_layer": counts_layer, "use_raw": use_raw or None, "gene_ids": gene_ids}
    if target.suffix == SUFFIX:
        if resume:
            raise typer.BadParameter("--resume: folders of tokens are written in one go. Leave it out.")
        if previous_layer is not None:
            raise typer.BadParameter("--previous-layer: folders of tokens hold one time point. Write .h5ad or .zarr.")
        with opened(file) as adata:
            gf.datasets.write_tokens(adata, target, model, overwrite=overwrite, **where)
    else:
        with (
            parts_of(target, resume=resume) as parts,
            edited(file, target, overwrite=overwrite or in_place, within=parts) as adata,
        ):
            gf.tl.tokenize(adata, model, previous_layer=previous_layer, out=parts, **where)
    typer.echo(f"Tokens are in {target}")
