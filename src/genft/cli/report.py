"""``genft report``: what a folder of results says, as tables or as one page."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from genft.cli.screen import screen


class Format(str, Enum):
    md = "md"
    csv = "csv"
    json = "json"
    html = "html"


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of genft train, bench or demo.")],
    html: Annotated[
        bool, typer.Option("--html", help="One page that needs no network: DIR/report.html, or --out FILE.")
    ] = False,
    format: Annotated[
        Format | None, typer.Option(help="Of the output. \\[default: what --out ends in, else tables for the terminal]")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="The method to compare with. \\[default: the best of each table]")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Only these, by commas. \\[default: all]")] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Also results that no bench compares: a grid's candidates, single runs.")
    ] = False,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="One table for benches whose training differs (preset, epochs, rates to choose from); "
            "where two have the same method and task, the later one's runs count.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write to this file. \\[default: stdout]")] = None,
) -> None:
    """Compare the results in a folder: scores, ranks, costs, published numbers, and which differences are real.

    Results stand in one table only if model, suite, protocol and limits are equal, and what a bench set of training.
    Means are over the tasks that every method has.

        genft report runs

        genft report runs --against lora --format md --out results.md

        genft report --html runs
    """
    from genft.api.settings import split_outside_brackets
    from genft.files import write_atomically
    from genft.report import formats, page
    from genft.report.collect import read_report
    from genft.runs.store import Store

    if html:
        format, out = Format.html, out or folder / "report.html"
    kind = format or _ending(out)
    store = Store(folder)
    with screen(True).status("Comparing example by example"):
        found = read_report(
            store,
            methods=split_outside_brackets(methods or ""),
            everything=all_,
            together=together,
            against=against,
        )
    if kind is None:
        screen(False).print(formats.as_rich(found))
        return
    if kind is Format.html:
        text = page.render(store, found)
    else:
        text = {"md": formats.as_markdown, "csv": formats.as_csv, "json": formats.as_json}[kind.value](found)
    if out is None:
        print(text, end="")
    else:
        write_atomically(out, text.encode())
        screen(False).print(f"Written: {out}", soft_wrap=True, markup=False)


def _ending(out: Path | None) -> Format | None:
    from genft.errors import ConfigError, not_one_of

    if out is None:
        return None
    ending = out.suffix.removeprefix(".")
    if ending not in Format.__members__:
        raise ConfigError(not_one_of(f"--out {out}: the ending", ending, Format.__members__))
    return Format(ending)


def register(app: typer.Typer) -> None:
    app.command()(report)
