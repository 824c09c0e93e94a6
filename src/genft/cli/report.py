"""``genft report``: show a folder of results as tables or as one page."""

from __future__ import annotations

from pathlib import Path

from genft.api.settings import split_outside_brackets
from genft.cli.declare import Options, argument, option, takes_options
from genft.cli.screen import screen
from genft.errors import ConfigError, not_one_of
from genft.files import check_writable, write_atomically
from genft.report import formats, page
from genft.report.collect import read_report
from genft.runs.store import Store

FORMATS = ("md", "csv", "json", "html")


class ReportOptions(Options):
    folder: Path = argument("The folder given to genft train, bench or demo as --out.", metavar="DIR")
    html: bool = option("Write one self-contained HTML page: DIR/report.html, or --out FILE.", False)
    format: str | None = option(
        f"Output format: {', '.join(FORMATS)}.",
        None,
        shown_default="the extension of --out, else tables for the terminal",
    )
    against: str | None = option("The method to compare with.", None, shown_default="the best of each table")
    methods: str | None = option("Only these methods, separated by commas.", None, shown_default="all")
    everything: bool = option(
        "Also show results that no bench compares: a grid's candidates, single runs.", False, names=("--all",)
    )
    together: bool = option(
        "Show benches with different training (preset, epochs, candidate rates) in one table; if two have the same "
        "method and task, the runs of the later one count.",
        False,
    )
    out: Path | None = option("Write to this file.", None, shown_default="stdout")


@takes_options
def report(options: ReportOptions) -> None:
    """Show a folder of results as tables or as one page.

    Shows scores, ranks, costs, published numbers, and which differences are real. Two results share a table only if
    they have the same model, suite, protocol, limits and training settings of the bench. Means are over the tasks that
    every method has.

        genft report runs

        genft report runs --against lora --format md --out results.md

        genft report --html runs
    """
    out, kind = options.out, "html" if options.html else _format(options)
    if options.html:
        out = out or options.folder / "report.html"
    if out is not None:
        check_writable(out)
    store = Store(options.folder)
    with screen(True).status("Comparing example by example"):
        contents = read_report(
            store,
            methods=split_outside_brackets(options.methods or ""),
            everything=options.everything,
            together=options.together,
            against=options.against,
        )
    if kind is None:
        screen().print(formats.as_rich(contents))
        return
    if kind == "html":
        text = page.render(store, contents)
    else:
        text = {"md": formats.as_markdown, "csv": formats.as_csv, "json": formats.as_json}[kind](contents)
    if out is None:
        print(text, end="")
    else:
        write_atomically(out, text.encode())
        screen().print(f"Written to {out}", soft_wrap=True, markup=False)


def _format(options: ReportOptions) -> str | None:
    """The value of --format, else the extension of --out, or None for the terminal."""
    if options.format is not None:
        if options.format not in FORMATS:
            raise ConfigError(not_one_of("--format", options.format, FORMATS))
        return options.format
    if options.out is None:
        return None
    extension = options.out.suffix.removeprefix(".")
    if extension not in FORMATS:
        raise ConfigError(not_one_of(f"--out {options.out}: the extension", extension, FORMATS))
    return extension
