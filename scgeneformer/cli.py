"""The command line ``scgeneformer``: read, call gf, write."""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from typing import Annotated

import typer

from scgeneformer._cli.check import check
from scgeneformer._cli.classify import classify
from scgeneformer._cli.demo import demo
from scgeneformer._cli.embed import embed
from scgeneformer._cli.embed_genes import embed_genes
from scgeneformer._cli.errors import Commands
from scgeneformer._cli.models import download, models
from scgeneformer._cli.perturb import perturb
from scgeneformer._cli.pretrain import pretrain
from scgeneformer._cli.tokenize import tokenize
from scgeneformer._cli.train import train

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (demo, models, download, check, tokenize, embed, embed_genes, perturb, pretrain, train, classify):
    app.command()(command)


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        from scgeneformer import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the program an error arose.")] = False,
) -> None:
    """Geneformer for AnnData files: tokenize, embed, perturb, train. Results on stdout or in files, log on stderr."""
    import scanpy as sc

    sc.settings.verbosity = 3


def main() -> None:
    """Run the command line; a termination signal lets it remove its temporary files."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    atexit.register(gc.freeze)  # else Python looks through all modules for garbage once more: more than a second
    app()
