"""The check of the data that precedes training: what ``genft data check`` finds, before any time is spent."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from genft.cli.declare import Options, option
from genft.cli.screen import bars
from genft.data import TaskData
from genft.data.check import Checked, check_data, require
from genft.training import ranks
from genft.training.prepared import PreparedRun


class DataCheckOptions(Options):
    panel = "Data"
    no_check: bool = option(
        "Skip the check of the data (unreadable images, contradictory labels) before training.", False
    )


def check_first(console: Console, data: TaskData) -> list[str]:
    """What ``genft data check`` finds in ``data``, in sentences; processes of one run learn it from the first.

    Raises:
        DataError: something that would end the run, such as an image that cannot be read.
    """
    checked: Checked | None = None
    if ranks.is_first():
        with bars(console) as progress:
            row = progress.add_task(f"checking the data of {escape(data.task.name)}", total=None)
            checked = check_data(data, lambda done, total: progress.update(row, completed=done, total=total))
    faults, notes = ranks.share((checked.faults, checked.notes) if checked else ([], []))
    require(faults)
    return notes


def check_tasks_first(console: Console, waiting: Iterable[PreparedRun]) -> None:
    """Check the data of every task that still has runs, and print what was inferred from the data or found in them.

    Raises:
        DataError: something that would end a run.
    """
    one_per_task = {run.data.task.name: run for run in waiting}
    for name, run in one_per_task.items():
        for note in (*run.data.notes, *run.roles.notes, *check_first(console, run.data)):
            console.print(f"[dim]{escape(f'{name}: {note}')}[/]", soft_wrap=True)
