"""``genft data``: the data of benchmarks on disk."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genft.cli.screen import print_json, screen
from genft.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from genft.data.check import Checked

_MOST_WRONG, _MOST_OTHER = 10, 3  # sentences that are shown per task

app = typer.Typer(name="data", help="Look after the data of benchmarks.", no_args_is_help=True)


@app.command()
def check(
    root: Annotated[Path, typer.Argument(help="The folder with the data: as --data of the other commands.")],
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK|SUITE|FILE.toml]...", help="What to check. \\[default: every benchmark task in ROOT]"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything that was found, as JSON on stdout.")] = False,
) -> None:
    """Check data on disk: counts, classes, labels, missing and unreadable images, copies across splits.

    Exit code 1 if something would make results wrong, or not comparable with others' on the same benchmark.
    """
    from genft.data import LAYOUTS, find_tasks, list_tasks
    from genft.data.check import check_task

    if not root.is_dir():
        raise ConfigError(f"{root}: is not a folder")
    names = tasks or sorted({task.suite for task in list_tasks() if task.reader in LAYOUTS})
    console = screen(json)
    checked: list[Checked] = []
    with _bar(console) as bar:
        for task in (task for name in names for task in find_tasks(name, root)):
            row = bar.add_task(task.name, total=None)
            checked.append(check_task(task, functools.partial(_step, bar, row)))
            bar.remove_task(row)
    found = [c for c in checked if c.there]
    if not found:
        missing = checked[0].faults[0] if tasks else "it has no folder of a GLUE, VTAB-1k or FGVC task"
        raise ConfigError(f"{root}: nothing to check: {missing}")
    if json:
        print_json([_plain(c) for c in (checked if tasks else found)])
    else:
        _show(console, root, found, [c for c in checked if not c.there], asked=bool(tasks))
    if not all(c.good for c in (checked if tasks else found)):
        raise typer.Exit(1)


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _step(bar: Progress, row: TaskID, done: int, total: int) -> None:
    bar.update(row, completed=done, total=total)


def _show(console: Console, root: Path, found: list[Checked], missing: list[Checked], *, asked: bool) -> None:
    from rich.markup import escape

    from genft.report.terminal import table

    numbers = ("classes", "train", "validation", "test", "wrong", "copies")
    shown = table("", "task", *numbers, right=numbers)
    for c in found:
        sizes = {name: len(split) for name, split in c.data.splits.items()} if c.data else {}
        expected = len(c.data.task.classes) if c.data else 0
        shown.add_row(
            "[green]✓[/]" if c.good else "[red]✗[/]",
            f"[bold]{c.task.name}[/]",
            _against(c.classes, expected),
            *(_against(sizes.get(name, 0), c.task.sizes.get(name)) for name in ("train", "validation", "test")),
            f"{len(c.faults):,}" if c.faults else "",
            f"{len(c.copies):,}" if c.copies else "",
        )
    console.print(shown)
    console.print("[dim]✗ N of M: M in the benchmark. wrong: rows and images. copies: examples in two splits.[/]")
    for c in found:
        other = [*(note for note in c.notes if note not in c.differences), *c.copies]
        for sign, sentences, most in (
            ("[red]✗[/]", [*c.faults, *c.differences], _MOST_WRONG),
            ("[yellow]![/]", other, _MOST_OTHER),
        ):
            for sentence in sentences[:most]:
                text = escape(sentence.replace(f"{root}/", ""))
                console.print(f"{sign} [bold]{c.task.name}[/]  {text}", soft_wrap=True)
            if len(sentences) > most:
                console.print(f"{sign} [bold]{c.task.name}[/]  and {len(sentences) - most:,} more (--json has all)")
    for c in missing if asked else ():
        console.print(f"[red]✗[/] {escape(c.faults[0])}", soft_wrap=True)
    if missing and not asked:
        console.print(f"[dim]not there: {', '.join(c.task.name for c in missing)}[/]")


def _against(count: int, expected: int | None) -> str:
    """``800 ✓``, or ``✗ 2,465 of 6,084``."""
    if not expected:
        return f"{count:,}" if count else "–"
    return f"{count:,} [green]✓[/]" if count == expected else f"[red]✗ {count:,} of {expected:,}[/]"


def _plain(c: Checked) -> dict[str, object]:
    return {
        "task": c.task.name,
        "good": c.good,
        "classes": c.classes,
        "sizes": {name: len(split) for name, split in c.data.splits.items()} if c.data else {},
        "expected_sizes": c.task.sizes,
        **{kind: getattr(c, kind) for kind in ("faults", "differences", "copies", "notes")},
    }


def register(to: typer.Typer) -> None:
    to.add_typer(app)
