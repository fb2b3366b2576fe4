from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scgeneformer._demo import run


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Directory for the results.")] = Path("."),
) -> None:
    """Embed 700 real blood cells with the model inside the package and draw them; no network, under two minutes.

    Writes figures/demo_umap.png and demo.h5ad, replacing those of an earlier run.
    """
    typer.echo(str(run(out)))
