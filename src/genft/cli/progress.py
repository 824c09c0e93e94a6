"""Progress bars: for one run, and for many at the same time."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID, TextColumn, TimeRemainingColumn

from genft.cli.screen import bars
from genft.errors import GenFTError
from genft.report.style import duration
from genft.runs.measured import Result
from genft.sweeps.schedule import Schedule
from genft.training.callbacks import Inferred
from genft.training.callbacks import Progress as Report
from genft.training.prepared import PreparedRun


class RunBar:
    """A progress bar for one run: what it is doing, its steps, and the score of its last epoch."""

    def __init__(self, console: Console, label: str, metric: str) -> None:
        self.label, self.metric = label, metric
        self.bar = bars(console, TextColumn("{task.fields[score]}"), TimeRemainingColumn(compact=True))
        self.task: TaskID = self.bar.add_task(f"{label}  loading", total=None, score="")

    def __enter__(self) -> RunBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def watch(self, event: Report | Inferred) -> None:
        if isinstance(event, Inferred):
            self.inferred(event)
            return
        self.bar.update(self.task, description=f"{self.label}  {event.phase}")
        if event.phase == "train":
            self.bar.update(self.task, completed=event.step, total=event.steps)
        if event.epoch is not None:
            self.bar.update(self.task, score=f"{self.metric} {event.epoch[self.metric]:.3f}")
            self.epoch(event.epoch)

    def inferred(self, inferred: Inferred) -> None:
        """Called before training, and again if the method's recipe starts it anew."""

    def epoch(self, metrics: dict[str, float]) -> None:
        """Called after every epoch."""


class SweepBars:
    """One bar for all runs, one for every run in progress, and a line for every finished run."""

    def __init__(self, console: Console, schedule: Schedule) -> None:
        self.console, self.schedule = console, schedule
        self.progress = bars(console, TextColumn("{task.fields[note]}"))
        self.all: TaskID = self.progress.add_task("all runs", total=schedule.planned, note="")
        self.bars: dict[str, TaskID] = {}
        self._count()

    def __enter__(self) -> SweepBars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, run: PreparedRun, event: Any) -> None:
        name = escape(self.schedule.label(run))
        bar = self.bars.get(run.key)
        if bar is None:
            bar = self.bars[run.key] = self.progress.add_task(f"{name}  loading", total=None, note="")
        if isinstance(event, (Result, GenFTError)):
            self.progress.remove_task(self.bars.pop(run.key))
            self._line(run, name, event)
            self._count()
        elif isinstance(event, Report):
            if event.phase == "train":
                self.progress.update(bar, completed=event.step, total=event.steps)
            self.progress.update(bar, description=f"{name}  {event.phase}")
            if event.epoch is not None:
                metric = run.family.selects.name
                self.progress.update(bar, note=f"{metric} {event.epoch[metric]:.3f}")

    def _line(self, run: PreparedRun, name: str, outcome: Result | GenFTError) -> None:
        rate = f"  rate {run.spec.training.learning_rate:g}" if self.schedule.matrix.grid else ""
        if isinstance(outcome, GenFTError):
            outcome_in_words = f"[red]failed[/]: {escape(str(outcome).splitlines()[0])}"
        else:
            scores = outcome.scores
            outcome_in_words = f"{scores.metric} {scores.value:.4f} in {duration(outcome.cost.seconds)}"
        self.console.print(f"{len(self.schedule.outcomes):>4}  {name}{rate}  {outcome_in_words}", soft_wrap=True)

    def _count(self) -> None:
        left = self.schedule.seconds_left()
        note = "" if left is None else f"about {duration(left)} left"
        self.progress.update(self.all, completed=len(self.schedule.outcomes), total=self.schedule.planned, note=note)


def print_failures(console: Console, schedule: Schedule) -> None:
    """Print a line for every failed run."""
    for run, error in schedule.failures:
        name = escape(schedule.label(run))
        console.print(
            f"[red]failed[/] {name}: {escape(str(error))} (run the same command again to retry)", soft_wrap=True
        )
