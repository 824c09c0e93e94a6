"""``genft params``: the paper's parameter counts, counted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genft.cli.screen import print_json, screen

if TYPE_CHECKING:
    from genft.counts import SuiteCount

_TITLES = {
    "genft": "GenFT",
    "genft_no_shared": "w/o shared",
    "genft_no_specific": "w/o specific",
}


def params(
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="vtab1k, fgvc or glue: GenFT's presets; methods: every method.")
    ],
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw parameters against rank, GenFT and LoRA, to this .png, .svg or .pdf."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Count what the paper's presets train, on the real architectures, beside the numbers that it prints.

    Builds ViT-B/16 or RoBERTa-base without weights, applies every preset of Tables 8-10 and adds up the model's
    trained parameters. Needs no download.

        genft params vtab1k --figure parameters.png

        genft params methods
    """
    from genft.counts import count_suite, rank_curves
    from genft.sweeps.processes import be_quiet

    be_quiet()
    if suite == "methods":
        _methods(json, figure)
        return
    counted = count_suite(suite)
    curves = rank_curves() if figure or json else []
    if figure:
        from genft.figures.parameters import parameters_against_rank

        points = [(t.shared_dim + t.specific_dim, t.adapter["genft"]) for t in counted.tasks]
        parameters_against_rank(curves, points, suite, figure)
    if json:
        import dataclasses

        means = {name: counted.mean(name) for name in counted.printed}
        figure_2 = {c.label: dict(zip(c.ranks, c.parameters, strict=True)) for c in curves}
        print_json(dataclasses.asdict(counted) | {"mean": means, "parameters_by_rank": figure_2})
    else:
        _show(counted)
    if figure:
        screen(json).print(f"Parameters against rank: {figure}", soft_wrap=True)


def _methods(json: bool, figure: Path | None) -> None:

    from genft.counts import ARCHITECTURES, count_methods
    from genft.errors import ConfigError
    from genft.report.terminal import table

    if figure:
        raise ConfigError("--figure: is of vtab1k, fgvc and glue")
    counted = count_methods()
    if json:
        print_json(
            [{**vars(c), "count": c.count.model_dump(), "counted": c.counted, "agrees": c.agrees} for c in counted]
        )
        return
    console = screen(False)
    notes: list[str] = []
    for benchmark in dict.fromkeys(c.benchmark for c in counted):
        right = ("trains", "with head", "M", "printed")
        shown = table("method", "settings", *right, "", right=right)
        shown.columns[1].overflow = "fold"
        for c in (c for c in counted if c.benchmark == benchmark):
            if c.note:
                notes.append(f"{c.method}: {c.note}")
            shown.add_row(
                f"[bold]{c.method}[/]",
                c.settings,
                f"{c.count.adapter:,}",
                f"{c.count.adapter + c.count.head:,}" if c.with_head else "",
                c.counted,
                c.printed,
                ("" if c.agrees else "≠") + (f" [{len(notes)}]" if c.note else ""),
            )
        console.print(f"[bold]{benchmark}[/] on {ARCHITECTURES[benchmark].name}, two classes\n")
        console.print(shown)
        console.print()
    for number, note in enumerate(notes, 1):
        console.print(f"[dim]\\[{number}] {note}[/]")
    console.print("[dim]M: millions, as printed; with head where the printed number has it in it.[/]")


def _show(counted: SuiteCount) -> None:
    from genft.report.terminal import table

    columns = [_TITLES[name] for name in counted.printed]
    shown = table("task", "a", "b", *columns, "head", right=("a", "b", *columns, "head"))
    shown.columns[0].no_wrap = True
    for task in counted.tasks:
        numbers = [f"{task.adapter[name]:,}" for name in counted.printed]
        shown.add_row(task.task, str(task.shared_dim), str(task.specific_dim), *numbers, f"{task.head:,}")
    shown.add_section()
    shown.add_row("mean", "", "", *(f"{counted.mean(name):,.0f}" for name in counted.printed), "")
    shown.add_row("counted, M", "", "", *(f"[bold]{counted.counted(n)}[/]" for n in counted.printed), "")
    shown.add_row("printed, M", "", "", *counted.printed.values(), "")
    console = screen(False)
    console.print(f"[bold]{counted.benchmark}[/] on {counted.architecture}; presets of {counted.source}\n")
    console.print(shown)
    console.print(
        "[dim]a, b: shared and layer-specific dim; w/o shared: a = 0, where b = 0 becomes 8; w/o specific: b = 0.\n"
        "The printed column is the adapter's alone; the head is trained beside it.[/]"
    )


def register(app: typer.Typer) -> None:
    app.command()(params)
