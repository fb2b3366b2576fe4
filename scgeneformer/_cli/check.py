from __future__ import annotations

import typer

import scgeneformer as gf
from scgeneformer._adata.disk.files import opened
from scgeneformer._cli.options import CountsLayer, File, GeneIds, Model, UseRaw


def check(
    file: File,
    model: Model = None,
    counts_layer: CountsLayer = None,
    use_raw: UseRaw = False,
    gene_ids: GeneIds = None,
) -> None:
    """Look whether a model can use the data, and say what to do where it cannot.

    Where the counts are, gene names, species, coverage of the vocabulary, empty cells, truncation. Exit code 1 if
    there is a problem.
    """
    with opened(file) as adata:
        report = gf.pp.check(adata, model, counts_layer=counts_layer, use_raw=use_raw or None, gene_ids=gene_ids)
    typer.echo(str(report))
    raise typer.Exit(int(not report.ok))
