from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import scgeneformer as gf
from scgeneformer._adata.files import opened
from scgeneformer._cli.options import CountsLayer, File, GeneIds, Model, PreviousLayer, UseRaw

Labels = Annotated[list[str], typer.Option("--label", "-l", help="Column of obs to learn. Repeatable: all at once.")]
By = Annotated[
    list[str] | None, typer.Option("--split-by", help="Column of obs such as donor, never on both sides. Repeatable.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Setting of the recipe, such as learning_rate=1e-4. Repeatable."),
]


def setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; values are numbers, true, false, null or text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--set {text!r} is not of the form NAME=VALUE, such as epochs=3.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def train(
    file: File,
    label: Labels,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the trained model.")],
    model: Model = None,
    split: Annotated[str | None, typer.Option(help="Column of obs with train, validation and test.")] = None,
    split_by: By = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validate with so many folds.")] = None,
    recipe: Annotated[str, typer.Option(help="Settings by name.")] = "default",
    set_: Set = None,
    seed: int = 42,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in --out.")] = False,
    counts_layer: CountsLayer = None,
    use_raw: UseRaw = False,
    gene_ids: GeneIds = None,
    previous_layer: PreviousLayer = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Fine-tune Geneformer to tell labels of cells.

    Writes a directory of the model, its metrics on held-out cells and a model card. A stopped run goes on.
    """
    with opened(file) as adata:
        trained = gf.tl.train_classifier(
            adata,
            label,
            model,
            out=out,
            split=split,
            split_by=split_by or None,
            n_folds=folds,
            recipe=recipe,
            seed=seed,
            overwrite=overwrite,
            counts_layer=counts_layer,
            use_raw=use_raw or None,
            gene_ids=gene_ids,
            previous_layer=previous_layer,
            device=device,
            dtype=dtype,
            **dict(setting(text) for text in set_ or []),
        )
    for name, parts in trained.metrics["metrics"].items():
        for part, scores in parts.items():
            typer.echo(f"{name}, {part}: accuracy {scores['accuracy']:.3f}, macro F1 {scores['macro_f1']:.3f}")
    typer.echo(f"The model is in {trained.folder}")
