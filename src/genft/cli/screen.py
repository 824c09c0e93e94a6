"""What the commands share on the screen: consoles, JSON, the progress of a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from genft.training.callbacks import Inferred
    from genft.training.callbacks import Progress as Report

errors = Console(stderr=True)


def screen(as_json: bool) -> Console:
    """Where text for people goes: stdout, or stderr when stdout is for a script."""
    return Console(stderr=as_json, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


class RunBar:
    """A progress bar for one run: what it is doing, its steps, and the score of its last epoch."""

    def __init__(self, console: Console, label: str, metric: str) -> None:
        self.metric = metric
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.label = label
        self.task: TaskID = self.bar.add_task(f"{label}  loading", total=None, score="")

    def __enter__(self) -> RunBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def watch(self, event: Report | Inferred) -> None:
        from genft.training.callbacks import Inferred

        if isinstance(event, Inferred):
            self.inferred(event)
            return
        if event.phase == "train":
            self.bar.update(self.task, description=f"{self.label}  train", completed=event.step, total=event.steps)
        else:
            self.bar.update(self.task, description=f"{self.label}  {event.phase}")
        if event.epoch is not None:
            self.bar.update(self.task, score=f"{self.metric} {event.epoch[self.metric]:.3f}")
            self.epoch(event.epoch)

    def inferred(self, found: Inferred) -> None:
        """Called once, before training."""

    def epoch(self, metrics: dict[str, float]) -> None:
        """Called after every epoch."""
