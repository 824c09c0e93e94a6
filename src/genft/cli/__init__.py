"""The command line: one command per file, imported only when the command is called.

Exit codes: 0 success; 1 a run failed or the data have faults; 2 an error that the user can fix (one sentence on
stderr); 130 interrupted.
"""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from genft import __version__
from genft.cli.commands import CommandGroup

# bitsandbytes, if it is installed, advises at import to install what 4-bit models on CPUs would gain from
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

app = typer.Typer(
    name="genft",
    cls=CommandGroup,
    help="Adapt pretrained transformers with few trained parameters, and compare the methods honestly.",
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
