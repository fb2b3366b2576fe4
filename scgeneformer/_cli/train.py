from __future__ import annotations

from typing import Annotated

import typer

import scgeneformer as gf
from scgeneformer._adata.disk.files import opened
from scgeneformer._cli.options import (
    By,
    CountsLayer,
    Device,
    Dtype,
    File,
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

Labels = Annotated[list[str], typer.Option("--label", "-l", help="Column of obs to learn. Repeatable: all at once.")]


def train(
    file: File,
    label: Labels,
    out: ModelOut,
    model: Model = None,
    split: Split = None,
    split_by: By = None,
    n_folds: Annotated[int | None, typer.Option(help="Cross-validate with so many folds.")] = None,
    recipe: Annotated[str, typer.Option(help="Settings by name.")] = "default",
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
    """Fine-tune Geneformer to tell labels of cells.

    Writes a directory of the model, its metrics on held-out cells and a model card. A stopped run goes on.
    """
    with opened(file) as adata:
        arguments = with_settings(
            set_,
            adata=adata,
            label=label,
            model=model,
            out=out,
            split=split,
            split_by=split_by or None,
            n_folds=n_folds,
            recipe=recipe,
            seed=seed,
            overwrite=overwrite,
            counts_layer=counts_layer,
            use_raw=use_raw or None,
            gene_ids=gene_ids,
            previous_layer=previous_layer,
            device=device,
            dtype=dtype,
        )
        trained = gf.tl.train_classifier(**arguments)
    for name, parts in trained.metrics["metrics"].items():
        for part, scores in parts.items():
            typer.echo(f"{name}, {part}: accuracy {scores['accuracy']:.3f}, macro F1 {scores['macro_f1']:.3f}")
    typer.echo(f"The model is in {trained.folder}")
