"""Errors a user can do something about are one line; all others, and all with ``--debug``, are tracebacks."""

from __future__ import annotations

import re
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
            typer.echo(f"Error: {_told(error, self._options(ctx))}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            typer.echo(f"Interrupted. {_told(error, self._options(ctx))}", err=True)
            raise typer.Exit(INTERRUPTED) from None

    def _options(self, ctx: Any) -> dict[str, str]:
        """Options of the command that was called, by the name of the parameter."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        named = {param.name: param.opts[0] for param in (command.params if command else [])}
        return {name: option for name, option in named.items() if name and option.startswith("--")}


def _told(error: BaseException, options: dict[str, str]) -> str:
    """Text and notes of an error, in one line; parameters are named as the options they are: --layer 2 for layer=2."""
    sentences = [str(error), *getattr(error, "__notes__", ())]
    text = " ".join(" ".join(f"{one.rstrip('.')}." for one in sentences if one).split())

    def named(match: re.Match[str]) -> str:
        option = options.get(match[1])
        return match[0] if option is None else f"{option} " if match[2] is None else option

    return re.sub(r"\b(\w+)=(True\b|(?=\s|$))?", named, text)
