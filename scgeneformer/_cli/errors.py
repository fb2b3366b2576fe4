"""Errors a user can do something about are one line; all others, and all with ``--debug``, are tracebacks."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from scgeneformer._errors import GeneformerError

DEBUG = "--debug"
INTERRUPTED = 130  # exit code, as shells have it


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
            typer.echo(f"Error: {_told(error)}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            typer.echo(f"Interrupted. {_told(error)}", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _told(error: BaseException) -> str:
    """Text and notes of an error, in one line."""
    sentences = [str(error), *getattr(error, "__notes__", ())]
    return " ".join(" ".join(f"{one.rstrip('.')}." for one in sentences if one).split())
