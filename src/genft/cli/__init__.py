"""The command line. Each file holds the commands of one idea; heavy libraries are imported inside them.

Exit codes: 0 all well, 1 a run failed or data are wrong, 2 something that the user can mend (one sentence on stderr),
130 interrupted.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from genft.cli import (
    bench,
    data,
    demo,
    explain,
    export,
    listing,
    params,
    predict,
    report,
    search,
    show,
    study,
    train,
)
from genft.cli.screen import errors
from genft.errors import GenFTError, first_line


class Commands(TyperGroup):
    """The commands, with our own errors as sentences and without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GenFTError as e:
            if os.environ.get("RANK", "0") != "0":
                time.sleep(2)  # the first process has the same to say, or torchrun ends this one with the run
            for sentence in str(e).splitlines():
                errors.print(f"[bold red]error:[/] {escape(sentence)}", soft_wrap=True, highlight=False)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
            errors.print("interrupted: finished runs are kept; the same command goes on where this one stopped")
            raise typer.Exit(130) from None
        except typer.Abort:
            raise
        except Exception as e:
            if hasattr(e, "exit_code") or os.environ.get("GENFT_TRACEBACK"):  # typer's own, which it shows itself
                raise
            first = first_line(e, "")
            errors.print(
                f"[bold red]error:[/] {type(e).__name__}: {escape(first)} (GENFT_TRACEBACK=1 shows where)",
                soft_wrap=True, highlight=False,
            )  # fmt: skip
            raise typer.Exit(1) from None


app = typer.Typer(
    name="genft",
    cls=Commands,
    help="Adapt pretrained transformers with few trained parameters, and see honestly which method is best.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (demo, train, bench, search, study, report, data, predict, explain, listing, params, show, export):
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
    """Run the command line."""
    app()
