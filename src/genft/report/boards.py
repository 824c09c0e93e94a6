"""A board: results that can be compared in one table, with their means, ranks and costs.

A board holds results of one model, one suite, one protocol and the same limits; if a bench recorded which of its runs
are compared (bench.json), it holds the results of one such comparison. Nothing is averaged over tasks that only some
methods have, and a score that is not a finite number counts as missing wherever scores are ranked or averaged.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from scipy.stats import rankdata

from genft import published
from genft.families.metrics import METRICS, Metric
from genft.runs.measured import Result

SUITES = {"glue": "GLUE", "vtab1k": "VTAB-1k", "fgvc": "FGVC", "metamath": "MetaMathQA"}


class Spread(NamedTuple):
    """A mean over seeds, the standard deviation of one seed (NaN if there is only one), and the number of seeds."""

    mean: float
    deviation: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation of ``values``; NaN if any of them is not finite."""
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan, len(values))
    return Spread(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


def _ranks(values: Mapping[str, float], metric: Metric) -> dict[str, float]:
    signed = [-value if metric.higher_is_better else value for value in values.values()]
    return dict(zip(values, map(float, rankdata(signed)), strict=True)) if values else {}


@dataclass(frozen=True)
class Costs:
    """What a method costs, over tasks: means of parameters, medians of times, the highest peak of memory."""

    adapter_parameters: float
    head_parameters: float
    seconds_per_step: float
    seconds: float
    peak_memory_bytes: int
    epochs: tuple[int, ...]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Board:
    """Results that can be compared in one table.

    Attributes:
        limits: the most examples that train, select and report; None means all.
        labels: the columns: methods, with their settings if one method ran with several.
        runs: by (task, label), ordered by seed.
        constant: keys of the runs that make the same prediction for every example.
    """

    model: str
    suite: str
    protocol: str
    limits: tuple[int | None, ...]
    labels: tuple[str, ...]
    runs: Mapping[tuple[str, str], tuple[Result, ...]]
    constant: frozenset[str] = frozenset()

    # ---------------------------------------------------------------- contents

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task for task, _ in self.runs))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for runs in self.runs.values() for run in runs}))

    @property
    def title(self) -> str:
        return f"{SUITES.get(self.suite, self.suite) or 'Tasks'} with {self.model.rstrip('/').rpartition('/')[2]}"

    def first(self, task: str) -> Result:
        """Any run of the task, to read what all of its runs share."""
        return next(runs[0] for (name, _), runs in self.runs.items() if name == task)

    def method(self, label: str) -> str:
        return next(runs[0].method for (_, name), runs in self.runs.items() if name == label)

    def metric(self, task: str) -> Metric:
        return METRICS[self.first(task).scores.metric]

    def group(self, task: str) -> str:
        """The task's group within its suite, or ``""``."""
        return str(self.first(task).spec.get("task", {}).get("group", ""))

    def published(self, task: str, label: str) -> tuple[published.Number, ...]:
        """The numbers that papers print for this task, method and metric."""
        first = self.first(task)
        numbers = published.find(self.suite, first.task, self.method(label))
        return tuple(number for number in numbers if number.metric == first.scores.metric)

    # ---------------------------------------------------------------- scores, means and ranks

    def score(self, task: str, label: str) -> Spread | None:
        runs = self.runs.get((task, label))
        return spread([run.scores.value for run in runs]) if runs else None

    def has_score(self, task: str, label: str) -> bool:
        """Whether there is a score to rank and to average: finite for every seed that ran."""
        score = self.score(task, label)
        return score is not None and math.isfinite(score.mean)

    @cached_property
    def block(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(tasks, methods) that means are taken over: each of the methods has a score on each of the tasks.

        Either the tasks that all methods have, or the methods that have all tasks, whichever holds more scores.
        """
        common = tuple(task for task in self.tasks if all(self.has_score(task, label) for label in self.labels))
        complete = tuple(label for label in self.labels if all(self.has_score(task, label) for task in self.tasks))
        if len(self.tasks) * len(complete) > len(common) * len(self.labels):
            return self.tasks, complete
        return common, self.labels if common else ()

    @property
    def common(self) -> tuple[str, ...]:
        """The tasks over which means are taken."""
        return self.block[0]

    @property
    def complete(self) -> tuple[str, ...]:
        """The methods that have means: those with a score on every common task."""
        return self.block[1]

    @cached_property
    def mean_metric(self) -> Metric | None:
        """How a mean over the common tasks is read and ranked, or None if their scores cannot be averaged."""
        metrics = [self.metric(task) for task in self.common]
        kinds = {(metric.scale, metric.higher_is_better) for metric in metrics}
        return max(metrics, key=lambda metric: metric.digits) if len(kinds) == 1 else None

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The common tasks by their group within the suite; empty unless there are at least two groups."""
        tasks: dict[str, list[str]] = defaultdict(list)
        for task in self.common:
            if name := self.group(task):
                tasks[name].append(task)
        return {name: tuple(tasks[name]) for name in sorted(tasks)} if len(tasks) > 1 else {}

    def mean(self, label: str, tasks: Sequence[str]) -> Spread:
        """The plain mean over ``tasks``, with the deviation of this mean over the seeds that all of them have."""
        by_task = [{run.seed: run.scores.value for run in self.runs[task, label]} for task in tasks]
        seeds = set.intersection(*map(set, by_task))
        means = [fmean(scores[seed] for scores in by_task) for seed in sorted(seeds)]
        return Spread(
            fmean(fmean(scores.values()) for scores in by_task),
            stdev(means) if len(means) > 1 else math.nan,
            len(means),
        )

    def ranks(self, task: str) -> dict[str, float]:
        """1 is the best; equal scores share the mean of their ranks. Only methods that have a score on the task."""
        scores = {label: self.score(task, label) for label in self.labels if self.has_score(task, label)}
        return _ranks({label: score.mean for label, score in scores.items() if score}, self.metric(task))

    def mean_rank(self, label: str) -> float:
        """The mean rank over the common tasks, among the methods that have all of them."""
        return fmean(
            _ranks({x: self.mean(x, [task]).mean for x in self.complete}, self.metric(task))[label]
            for task in self.common
        )

    def reference(self) -> str:
        """The best method among those with the most seeds: by mean, or by mean rank if scores cannot be averaged.

        If there are no means at all, the first method.
        """

        def standing(label: str) -> tuple[int, float]:
            seeds = min(len(self.runs[task, label]) for task in self.common)
            metric = self.mean_metric
            if metric is None:
                return seeds, -self.mean_rank(label)
            mean = self.mean(label, self.common).mean
            return seeds, mean if metric.higher_is_better else -mean

        return max(self.complete, key=standing) if self.complete else self.labels[0]

    def costs(self, label: str) -> Costs:
        """Costs over the common tasks, or over the tasks that the method has if it lacks a common one."""
        tasks = self.common if label in self.complete else self.tasks
        runs = [run for task in tasks for run in self.runs.get((task, label), ())]
        rates = {rate for run in runs if (rate := training_of(run).get("learning_rate"))}
        return Costs(
            fmean(run.counts.adapter for run in runs),
            fmean(run.counts.head for run in runs),
            median(run.cost.seconds_per_step for run in runs),
            median(run.cost.seconds for run in runs),
            max(run.cost.peak_memory_bytes for run in runs),
            tuple(sorted({int(training_of(run).get("epochs", len(run.history.epochs))) for run in runs})),
            tuple(sorted(rates)),
        )


def settings_of(run: Result) -> dict[str, Any]:
    """What was requested of a run beyond its task, model and method, by name."""
    task = run.spec.get("task", {})
    task_settings = {name: task[name] for name in ("max_length", "text_columns") if name in task}
    return task_settings | dict(run.spec.get("settings", {})) | training_of(run)


def training_of(run: Result) -> dict[str, Any]:
    return dict(run.spec.get("training", {}))
