"""``genft params``: recount the paper's parameter counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from genft.cli.declare import argument, option, takes_options
from genft.cli.options import JsonOptions
from genft.cli.screen import print_json, screen
from genft.counts import ARCHITECTURES, MethodCount, SuiteCount, count_methods, count_suite, rank_curves
from genft.errors import ConfigError
from genft.report.style import table
from genft.runs.quiet import be_quiet

_TITLES = {
    "genft": "GenFT",
    "genft_no_shared": "w/o shared",
    "genft_no_specific": "w/o specific",
}


class ParamsOptions(JsonOptions):
    suite: str = argument("vtab1k, fgvc or glue: GenFT's presets; methods: every method.", metavar="SUITE")
    figure: Path | None = option(
        "Plot parameters against rank for GenFT and LoRA into this .png, .svg or .pdf file.", None, metavar="FILE"
    )


@takes_options
def params(options: ParamsOptions) -> None:
    """Count what the paper's presets train, next to its numbers.

    Builds ViT-B/16 or RoBERTa-base without weights, applies every preset of Tables 8-10 and adds up the trained
    parameters. Nothing is downloaded.

        genft params vtab1k --figure parameters.png

        genft params methods
    """
    be_quiet()
    if options.suite == "methods":
        if options.figure:
            raise ConfigError("--figure: only for vtab1k, fgvc and glue")
        _methods(count_methods(), options.as_json)
    else:
        _suite(options)


def _suite(options: ParamsOptions) -> None:
    counted = count_suite(options.suite)
    curves = rank_curves() if options.figure or options.as_json else []
    if options.figure:
        from genft.figures.parameters import parameters_against_rank

        points = [(t.shared_dim + t.specific_dim, t.adapter["genft"]) for t in counted.tasks]
        parameters_against_rank(curves, points, options.suite, options.figure)
    if options.as_json:
        means = {name: counted.mean(name) for name in counted.printed}
        figure_2 = {c.label: dict(zip(c.ranks, c.parameters, strict=True)) for c in curves}
        print_json(dataclasses.asdict(counted) | {"mean": means, "parameters_by_rank": figure_2})
    else:
        _show(counted)
    if options.figure:
        screen(options.as_json).print(f"Parameters against rank: {options.figure}", soft_wrap=True)


def _methods(counted: list[MethodCount], as_json: bool) -> None:
    if as_json:
        print_json(
            [
                dataclasses.asdict(c) | {"count": c.count.model_dump(), "counted": c.counted, "agrees": c.agrees}
                for c in counted
            ]
        )
        return
    console = screen()
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
                ("" if c.agrees else "≠") + (f" \\[{len(notes)}]" if c.note else ""),
            )
        console.print(f"[bold]{benchmark}[/] on {ARCHITECTURES[benchmark].name}, two classes\n")
        console.print(shown)
        console.print()
    for number, note in enumerate(notes, 1):
        console.print(f"[dim]\\[{number}] {note}[/]")
    console.print("[dim]M: millions, as printed; with head: shown if the printed number includes the head.[/]")


def _show(counted: SuiteCount) -> None:
    columns = [_TITLES[name] for name in counted.printed] + ["with biases"] * bool(counted.note)
    shown = table("task", "a", "b", *columns, "head", right=("a", "b", *columns, "head"))
    shown.columns[0].no_wrap = True
    for task in counted.tasks:
        numbers = [f"{task.adapter[name]:,}" for name in counted.printed]
        if counted.note:
            numbers.append("" if task.with_biases is None else f"{task.with_biases:,}")
        shown.add_row(task.task, str(task.shared_dim), str(task.specific_dim), *numbers, f"{task.head:,}")
    shown.add_section()
    biased = [task.with_biases for task in counted.tasks if task.with_biases is not None]
    means = [counted.mean(name) for name in counted.printed] + ([sum(biased) / len(biased)] if biased else [])
    shown.add_row("mean", "", "", *(f"{mean:,.0f}" for mean in means), "")
    shown.add_row("counted, M", "", "", *(f"[bold]{counted.counted(n)}[/]" for n in counted.printed), "")
    shown.add_row("printed, M", "", "", *counted.printed.values(), "")
    console = screen()
    console.print(f"[bold]{counted.benchmark}[/] on {counted.architecture}; presets of {counted.source}\n")
    console.print(shown)
    console.print(
        "[dim]a, b: shared and layer-specific dimension; w/o shared: a = 0, and b = 0 becomes 8; w/o specific: b = 0.\n"
        "The printed numbers count the adapter alone; the head is trained as well.[/]"
    )
    if counted.note:
        console.print(f"[dim]with biases: {counted.note}[/]")
