"""Results as boards: what may stand in one table, with its means, ranks and paired differences.

A board holds results of one model, one suite, one protocol and the same limits; where a bench says which of its runs
are compared (bench.json), of one such comparison. Nothing is averaged over tasks that only some methods have.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

import numpy as np

from genft import published
from genft.errors import ConfigError, DataError, not_one_of
from genft.report.significance import Difference, Floats, bootstrap, holm, summarise
from genft.runs.spec import LIMITS
from genft.runs.store import Result, Store, unpack

SUITES = {"glue": "GLUE", "vtab1k": "VTAB-1k", "fgvc": "FGVC"}


class Spread(NamedTuple):
    """A mean over seeds, the standard deviation of one seed (NaN for one seed alone), and how many there are."""

    mean: float
    deviation: float
    n: int


def _ranks(means: Mapping[str, float]) -> dict[str, float]:
    from scipy.stats import rankdata

    return dict(zip(means, (float(rank) for rank in rankdata([-mean for mean in means.values()])), strict=True))


def spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


@dataclass(frozen=True)
class Costs:
    """What a method costs, over the common tasks of a board: means of parameters, medians of time, the highest peak."""

    adapter_parameters: float
    head_parameters: float
    seconds_per_step: float
    seconds: float
    peak_memory_bytes: int
    epochs: tuple[int, ...]
    learning_rates: tuple[float, ...]


class Tested(NamedTuple):
    """A difference, and its p after Holm's correction over all differences that stand beside it."""

    difference: Difference
    p: float

    @property
    def real(self) -> bool:
        return self.p < 0.05


@dataclass(frozen=True)
class Differences:
    """Every method less the reference: per (task, label), and of the mean over the common tasks."""

    reference: str
    tasks: Mapping[tuple[str, str], Tested]
    means: Mapping[str, Tested]


@dataclass(frozen=True)
class Board:
    """Results that may stand in one table.

    Attributes:
        limits: of the examples that train, that select and that report; None: all.
        labels: the columns: methods, with their settings where one method ran with several.
        runs: by (task, label), in the order of their seeds.
    """

    model: str
    suite: str
    protocol: str
    limits: tuple[int | None, ...]
    labels: tuple[str, ...]
    runs: Mapping[tuple[str, str], tuple[Result, ...]]

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(task for task, _ in self.runs))

    @cached_property
    def block(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(tasks, methods) of the means: every one of the methods has every one of the tasks.

        Either the tasks that all methods have, or the methods that have all tasks, whichever holds more scores.
        """
        common = tuple(task for task in self.tasks if all((task, label) in self.runs for label in self.labels))
        complete = tuple(label for label in self.labels if all((task, label) in self.runs for task in self.tasks))
        if len(self.tasks) * len(complete) > len(common) * len(self.labels):
            return self.tasks, complete
        return common, self.labels if common else ()

    @property
    def common(self) -> tuple[str, ...]:
        """The tasks that means are over."""
        return self.block[0]

    @property
    def complete(self) -> tuple[str, ...]:
        """The methods that have means: those with all common tasks."""
        return self.block[1]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for runs in self.runs.values() for run in runs}))

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The common tasks by the group within their suite; empty where there are not two."""
        found: dict[str, list[str]] = defaultdict(list)
        for task in self.common:
            if name := self.first(task).spec.get("task", {}).get("group"):
                found[name].append(task)
        return {name: tuple(found[name]) for name in sorted(found)} if len(found) > 1 else {}

    @property
    def title(self) -> str:
        return f"{SUITES.get(self.suite, self.suite) or 'Tasks'} with {self.model.rstrip('/').rpartition('/')[2]}"

    def first(self, task: str) -> Result:
        """Some run of the task: for what all of them have."""
        return next(runs[0] for (name, _), runs in self.runs.items() if name == task)

    def method(self, label: str) -> str:
        return next(runs[0].method for (_, name), runs in self.runs.items() if name == label)

    def score(self, task: str, label: str) -> Spread | None:
        runs = self.runs.get((task, label))
        return spread([run.scores.value for run in runs]) if runs else None

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
        """1 is the best; equal scores share the mean of their ranks. Only methods that have the task."""
        return _ranks({label: score.mean for label in self.labels if (score := self.score(task, label))})

    def mean_rank(self, label: str) -> float:
        """Over the common tasks, among the methods that have all of them."""
        return fmean(_ranks({x: self.mean(x, [task]).mean for x in self.complete})[label] for task in self.common)

    def costs(self, label: str) -> Costs:
        """Over the common tasks, or over those that the method has where it lacks one."""
        tasks = self.common if label in self.complete else self.tasks
        runs = [run for task in tasks for run in self.runs.get((task, label), ())]
        rates = {rate for run in runs if (rate := _training(run).get("learning_rate"))}
        return Costs(
            fmean(run.counts.adapter for run in runs),
            fmean(run.counts.head for run in runs),
            median(run.cost.seconds_per_step for run in runs),
            median(run.cost.seconds for run in runs),
            max(run.cost.peak_memory_bytes for run in runs),
            tuple(sorted({int(_training(run).get("epochs", len(run.history.epochs))) for run in runs})),
            tuple(sorted(rates)),
        )

    def published(self, task: str, label: str) -> tuple[published.Number, ...]:
        """What papers print for this task, method and metric."""
        first = self.first(task)
        found = published.find(self.suite, first.task, self.method(label))
        return tuple(number for number in found if number.metric == first.scores.metric)

    def missing(self) -> list[str]:
        """A sentence per column that has not every task with every seed of the board."""
        sentences = []
        for label in self.labels:
            lacks = [task for task in self.tasks if (task, label) not in self.runs]
            fewer = [
                f"{task} ({len(self.runs[task, label])} of {len(self.seeds)} seeds)"
                for task in self.tasks
                if (task, label) in self.runs and len(self.runs[task, label]) < len(self.seeds)
            ]
            if lacks or fewer:
                sentences.append(f"{label} is missing: {', '.join([*lacks, *fewer])}")
        return sentences

    def mixed(self) -> list[str]:
        """A sentence per score whose seeds ran with different settings: of benches with different grids, say."""
        sentences = []
        for (task, label), runs in self.runs.items():
            first, *others = map(_settings, runs)
            differ = sorted({k for other in others for k in first.keys() | other if first.get(k) != other.get(k)})
            if differ:
                sentences.append(
                    f"{label} on {task} mixes seeds with different {', '.join(differ)}: "
                    "the same genft bench with all seeds makes them equal"
                )
        return sentences

    def reference(self) -> str:
        """The method with the best mean, of those with the most seeds; without any mean, the first."""

        def standing(label: str) -> tuple[int, float]:
            return min(len(self.runs[task, label]) for task in self.common), self.mean(label, self.common).mean

        return max(self.complete, key=standing) if self.complete else self.labels[0]

    def differences(self, against: str | None = None) -> Differences:
        """Every method less ``against`` (the best by its mean), example by example: see :mod:`.compare`.

        Raises:
            ConfigError: ``against`` is no column.
        """
        if against is not None and against not in self.labels:
            raise ConfigError(not_one_of("--against", against, self.labels))
        reference = against or self.reference()
        others = [label for label in self.labels if label != reference]
        found: dict[tuple[str, str], Difference] = {}
        means: dict[str, Difference] = {}
        for label in others:
            common: list[tuple[float, Floats]] = []
            fewest = len(self.seeds)
            for task in self.tasks:
                pairs = self._pairs(task, label, reference)
                if pairs:
                    observed, drawn = _bootstrap(task, pairs)
                    found[task, label] = summarise(observed, drawn, len(pairs))
                    if task in self.common:
                        common.append((observed, drawn))
                        fewest = min(fewest, len(pairs))
            if common and len(common) == len(self.common) and {label, reference} <= set(self.complete):
                drawn = np.mean([draws for _, draws in common], axis=0)
                means[label] = summarise(fmean(value for value, _ in common), drawn, fewest)
        return Differences(reference, _corrected(found), _corrected(means))

    def _pairs(self, task: str, label: str, reference: str) -> list[tuple[Result, Result]]:
        """The runs of both that have the same seed."""
        ours = {run.seed: run for run in self.runs.get((task, label), ())}
        theirs = {run.seed: run for run in self.runs.get((task, reference), ())}
        return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def _bootstrap(task: str, pairs: Sequence[tuple[Result, Result]]) -> tuple[float, Floats]:
    (target, *targets) = (unpack(run.targets) for pair in pairs for run in pair)
    if not all(np.array_equal(target, other) for other in targets):
        raise DataError(f"{task}: {pairs[0][0].label} and {pairs[0][1].label} were not evaluated on the same examples")
    first, second = (np.stack([unpack(pair[side].predictions) for pair in pairs]) for side in (0, 1))
    return bootstrap(pairs[0][0].scores.metric, first, second, target, seed=(0, zlib.crc32(task.encode())))


def _corrected(found: Mapping[Any, Difference]) -> dict[Any, Tested]:
    p = holm({key: difference.p for key, difference in found.items()})
    return {key: Tested(difference, p[key]) for key, difference in found.items()}


def boards(
    store: Store, *, methods: Collection[str] = (), everything: bool = False, together: bool = False
) -> list[Board]:
    """The boards of a store, each in the order of its bench, or of method names.

    Args:
        methods: only these columns, by label or name of the method; empty: all.
        everything: also results that no bench compares: candidates of a grid, single runs.
        together: benches with different training share boards; where two have the same column and task, the later
            one's runs count.

    Raises:
        ConfigError: a method that has no result.
        DataError: no results at all.
    """
    found = _labelled(store, everything)
    tables: dict[tuple[Any, ...], list[tuple[str, Result]]] = defaultdict(list)
    for matrix, label, result in _latest(found) if together else found:
        tables[(matrix, *_comparable(result))].append((label, result))
    if not tables:
        raise DataError(f"{store.out}: holds no results; `genft train` and `genft bench` write them with --out")
    known = {name for rows in tables.values() for label, run in rows for name in (label, run.method)}
    if unknown := [name for name in methods if name not in known]:
        raise ConfigError(not_one_of("--methods", unknown[0], sorted(known), what="has no result"))
    made = []
    for (_, model, _, suite, protocol, limits), rows in tables.items():
        wanted = [(label, run) for label, run in rows if not methods or {label, run.method} & set(methods)]
        if wanted:
            made.append(_board(model, suite, protocol, limits, wanted))
    return made


def _board(
    model: str, suite: str, protocol: str, limits: tuple[int | None, ...], rows: Sequence[tuple[str, Result]]
) -> Board:
    data: dict[str, set[str]] = defaultdict(set)
    for _, run in rows:
        data[run.task].add(run.provenance.data_fingerprint)
    runs: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for label, run in rows:  # one name for other data is another task
        task = run.task if len(data[run.task]) == 1 else f"{run.task} (data {run.provenance.data_fingerprint[:4]})"
        runs[task, label].append(run)
    labels = tuple(dict.fromkeys(label for label, _ in rows))
    ordered = {key: tuple(sorted(found, key=lambda run: run.seed)) for key, found in runs.items()}
    return Board(model, suite, protocol, limits, labels, ordered)


def _comparable(run: Result) -> tuple[Any, ...]:
    """What must be equal for two runs to stand in one table."""
    suite = run.spec.get("task", {}).get("suite", "")
    return run.model, run.provenance.model_fingerprint, suite, run.protocol, _limits(run)


def _latest(rows: Iterable[tuple[str, str, Result]]) -> Iterable[tuple[str, str, Result]]:
    """Of what several comparisons have at one place of a board, the runs of the last one; all as one comparison."""
    rows = list(rows)
    last = {(_comparable(run), label, run.task, run.provenance.data_fingerprint): matrix for matrix, label, run in rows}
    for matrix, label, run in rows:
        if last[_comparable(run), label, run.task, run.provenance.data_fingerprint] == matrix:
            yield "", label, run


def _labelled(store: Store, everything: bool) -> Iterable[tuple[str, str, Result]]:
    """(comparison, column, result) of what a bench compares; without a bench, or for everything, of every result."""
    cells = [] if everything else store.compared()
    if not cells:
        yield from (("", label, run) for label, run in _distinguished(list(store)))
    for cell in cells:
        if (result := store.get(cell.key)) is not None:
            yield cell.matrix, cell.label, result


def _distinguished(results: Sequence[Result]) -> Iterable[tuple[str, Result]]:
    """A method that ran with several settings on one task and seed is a column for each of them."""
    methods: dict[str, list[Result]] = defaultdict(list)
    for run in sorted(results, key=lambda run: (run.method, run.task, run.seed)):
        methods[run.method].append(run)
    for method, runs in methods.items():
        places: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for run in runs:
            place = (
                run.task,
                run.provenance.data_fingerprint,
                run.seed,
                run.model,
                run.provenance.model_fingerprint,
                run.protocol,
                _limits(run),
            )
            places[place].append(_settings(run))
        names = {name for place in places.values() for settings in place for name in settings}
        differ = sorted(name for name in names if any(len({repr(s.get(name)) for s in p}) > 1 for p in places.values()))
        labels = {}
        for run in runs:
            settings = _settings(run)
            said = [f"{name}={settings[name]}" for name in differ if settings.get(name) is not None]
            labels[run.key] = f"{method}[{','.join(said)}]" if said else method
        yield from ((labels[run.key], run) for run in sorted(runs, key=lambda run: labels[run.key]))


def _settings(run: Result) -> dict[str, Any]:
    task = run.spec.get("task", {})
    of_task = {name: task[name] for name in ("metric", "max_length", "text_columns") if name in task}
    return of_task | dict(run.spec.get("settings", {})) | _training(run)


def _limits(run: Result) -> tuple[int | None, ...]:
    return tuple(run.spec.get(name) for name in LIMITS)


def _training(run: Result) -> dict[str, Any]:
    return dict(run.spec.get("training", {}))
