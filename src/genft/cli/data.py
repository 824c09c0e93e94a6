"""``genft data``: check data on disk, a benchmark's or your own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from genft.cli.declare import argument, takes_options
from genft.cli.options import JsonOptions, OwnDataOptions
from genft.cli.request import own_task
from genft.cli.screen import bars, print_json, screen
from genft.data import LAYOUTS, Task, find_tasks, list_tasks
from genft.data.check import Checked, check_task
from genft.data.image_folders import is_image_folder
from genft.data.task import SPLITS
from genft.errors import ConfigError
from genft.report.style import table

_MOST_WRONG, _MOST_OTHER, _MOST_OF_OWN = 10, 3, 12  # sentences shown per task

data = typer.Typer(name="data", help="Check data before training.", no_args_is_help=True, rich_markup_mode="rich")


@data.callback()
def _group() -> None:
    """Keep `genft data` a group although it has only one command."""


class CheckOptions(JsonOptions):
    root: Path = argument(
        "Your own file or folder of images, as in `genft train`; or the benchmark data folder, as for --data of other "
        "commands.",
        metavar="PATH",
    )
    tasks: tuple[str, ...] = argument(
        "What to check.",
        (),
        metavar="[TASK|SUITE|FILE.toml]...",
        shown_default="every benchmark task in PATH, or your own data",
    )


@data.command()
@takes_options
def check(options: CheckOptions, own: OwnDataOptions) -> None:
    """Check data on disk: counts, classes, labels, missing and unreadable images, copies across splits.

    Exits with code 1 if anything would make results wrong, or not comparable with other results on the same benchmark.

        genft data check reviews.csv --text-column review --label-column stars

        genft data check ~/data glue
    """
    root, console = options.root, screen(options.as_json)
    if root.is_dir():
        names = options.tasks or sorted({task.suite or task.name for task in list_tasks() if task.reader in LAYOUTS})
        records = _check_all(console, [task for name in names for task in find_tasks(name, root)])
    elif options.tasks:
        raise ConfigError(f"{root}: is not a folder")
    else:
        records = []
    present = [record for record in records if record.there]
    if (
        not options.tasks
        and not any(record.data for record in present)
        and (not root.is_dir() or is_image_folder(root))
    ):
        records = present = _check_all(console, [own_task(root, own)])
    if not present:
        nothing = "it has no folder of a GLUE, VTAB-1k or FGVC task, and no folders of images"
        raise ConfigError(f"{root}: nothing to check: {records[0].faults[0] if options.tasks else nothing}")
    counted = records if options.tasks else present
    if options.as_json:
        print_json([_plain(record) for record in counted])
    else:
        console.print(_table(present))
        console.print(
            "[dim]✗ N of M: N found, M expected. wrong: faulty rows and images. copies: examples in two splits.[/]"
        )
        _print_problems(console, root, present)
        _print_missing(console, [r for r in records if not r.there], asked=bool(options.tasks))
    if not all(record.good for record in counted):
        raise typer.Exit(1)


def _check_all(console: Console, tasks: Sequence[Task]) -> list[Checked]:
    records: list[Checked] = []
    with bars(console) as progress:
        for task in tasks:
            row = progress.add_task(task.name, total=None)
            records.append(check_task(task, functools.partial(_step, progress, row)))
            progress.remove_task(row)
    return records


def _step(progress: Progress, row: TaskID, done: int, total: int) -> None:
    progress.update(row, completed=done, total=total)


def _table(present: Sequence[Checked]) -> Table:
    numbers = ("classes", "train", "validation", "test", "wrong", "copies")
    shown = table("", "task", *numbers, right=numbers)
    for c in present:
        sizes = {name: len(split) for name, split in c.data.splits.items()} if c.data else {}
        expected = len(c.data.task.classes) if c.data else 0
        shown.add_row(
            "[green]✓[/]" if c.good else "[red]✗[/]",
            f"[bold]{c.task.name}[/]",
            _against(c.classes, expected),
            *(_against(sizes.get(name, 0), c.task.sizes.get(name)) for name in SPLITS),
            f"{len(c.faults):,}" if c.faults else "",
            f"{len(c.copies):,}" if c.copies else "",
        )
    return shown


def _print_problems(console: Console, root: Path, present: Sequence[Checked]) -> None:
    for c in present:
        other = [*(note for note in c.notes if note not in c.differences), *c.copies]
        for sign, sentences, most in (
            ("[red]✗[/]", [*c.faults, *c.differences], _MOST_WRONG),
            ("[yellow]![/]", other, _MOST_OTHER if c.task.suite else _MOST_OF_OWN),
        ):
            for sentence in sentences[:most]:
                text = escape(sentence.replace(f"{root}/", ""))
                console.print(f"{sign} [bold]{c.task.name}[/]  {text}", soft_wrap=True)
            if len(sentences) > most:
                console.print(f"{sign} [bold]{c.task.name}[/]  and {len(sentences) - most:,} more (--json lists all)")


def _print_missing(console: Console, missing: Sequence[Checked], *, asked: bool) -> None:
    """List the tasks without data: as faults if the user asked for them, else in one remark."""
    if asked:
        for c in missing:
            console.print(f"[red]✗[/] {escape(c.faults[0])}", soft_wrap=True)
    elif missing:
        console.print(f"[dim]missing: {', '.join(c.task.name for c in missing)}[/]")


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
