"""The command line. Each file holds the commands of one idea; heavy libraries are imported inside them."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from genft.cli import demo, explain, listing, params, predict, train
from genft.cli.screen import errors
from genft.errors import GenFTError

app = typer.Typer(
    name="genft",
    help="Adapt pretrained transformers with few trained parameters, and see honestly which method is best.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (demo, train, predict, explain, listing, params):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from genft import __version__

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
    """Run the command line: 0 all well, 2 something that the user can mend, 130 interrupted."""
    try:
        app()
    except GenFTError as e:
        for sentence in str(e).splitlines():
            errors.print(f"[bold red]error:[/] {_plain(sentence)}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print(
            "interrupted; finished runs are kept, and the same command goes on where this one stopped"
        )
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
