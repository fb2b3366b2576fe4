from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

import scgeneformer as gf
from scgeneformer._adata.disk.files import opened
from scgeneformer._adata.disk.token_files import SUFFIX
from scgeneformer._cli.options import (
    By,
    CountsLayer,
    Device,
    Dtype,
    GeneIds,
    Model,
    ModelOut,
    OverwriteModel,
    PreviousLayer,
    Seed,
    Settings,
    Split,
    UseRaw,
    with_settings,
)


def pretrain(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="AnnData files, or folders of tokens.")],
    out: ModelOut,
    model: Model = None,
    min_cells: Annotated[
        int, typer.Option(help="Without --model: cells that must have a gene for it to be in the vocabulary.")
    ] = 1,
    split: Split = None,
    split_by: By = None,
    recipe: Annotated[str, typer.Option(help="Settings by name.")] = "geneformer",
    set_: Settings = None,
    seed: Seed = 0,
    overwrite: OverwriteModel = False,
    counts_layer: CountsLayer = None,
    use_raw: UseRaw = False,
    gene_ids: GeneIds = None,
    previous_layer: PreviousLayer = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Train Geneformer to predict masked genes, on from --model or from scratch.

    From scratch the genes are those of the files. Writes a directory of the model, its losses on held-out cells and a
    model card. A stopped run goes on.
    """
    where: dict[str, Any] = {"counts_layer": counts_layer, "use_raw": use_raw or None, "gene_ids": gene_ids}
    vocabulary = None
    if model is None:
        statistics = gf.models.gene_statistics(files, **where)
        vocabulary = gf.models.build_vocabulary(statistics, min_cells=min_cells)
    with ExitStack() as stack:
        cells = [file if file.suffix == SUFFIX else stack.enter_context(opened(file)) for file in files]
        arguments = with_settings(
            set_,
            adata=cells,
            model=model,
            vocabulary=vocabulary,
            out=out,
            split=split,
            split_by=split_by or None,
            recipe=recipe,
            seed=seed,
            previous_layer=previous_layer,
            device=device,
            dtype=dtype,
            overwrite=overwrite,
            **where,
        )
        trained = gf.tl.pretrain(**arguments)
    for part, found in trained.metrics["metrics"].items():
        alone = found["unigram_loss"]
        typer.echo(
            f"{part}: loss {found['loss']:.4f}, by frequencies alone {alone:.4f}, accuracy {found['accuracy']:.3f}"
        )
    typer.echo(f"The model is in {trained.folder}")
