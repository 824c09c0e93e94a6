"""The command line: one command per file, which is imported when the command is called.

Exit codes: 0 all is well, 1 a run failed or data are wrong, 2 something that the user can mend (one sentence on
stderr), 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from genft import __version__
from genft.cli.commands import CommandGroup

app = typer.Typer(
    name="genft",
    cls=CommandGroup,
    help="Adapt pretrained transformers with few trained parameters, and see honestly which method is best.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    app()
