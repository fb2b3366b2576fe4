"""Errors a user can do something about are one line; all others, and all with ``--debug``, are tracebacks."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from scgeneformer._errors import GeneformerError

DEBUG = "--debug"


class Commands(TyperGroup):
    """Command group that turns expected errors into one line on stderr and exit code 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--debug`` wherever it stands."""
        ctx.meta[DEBUG] = DEBUG in args
        return super().parse_args(ctx, [arg for arg in args if arg != DEBUG])

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (GeneformerError, OSError) as error:
            if ctx.meta[DEBUG]:
                raise
            typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None
