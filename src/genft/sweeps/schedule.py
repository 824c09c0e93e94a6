"""Many runs, each in its own process: which are finished, and which come next.

The runs of one entry on one task belong together: with a grid of learning rates, the rate is chosen first, on the
selection split of the first seed, and the runs that are compared follow. Finished runs are in the store; run a matrix
again to resume it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from genft.data import Task, TaskData
from genft.errors import ConfigError, GenFTError
from genft.families.metrics import METRICS
from genft.models.source import find_model
from genft.runs.measured import ComparedRun, Failure, Result
from genft.runs.protocols import Roles
from genft.runs.store import Store
from genft.sweeps.cluster import Cluster
from genft.sweeps.matrix import Entry, Matrix
from genft.sweeps.processes import run_side_by_side
from genft.training.callbacks import Inferred, Progress
from genft.training.prepared import PreparedRun, prepare

#: How often a grid is extended if its best rate is at an edge.
_EXTENSIONS = 4

Outcome: TypeAlias = Result | GenFTError

#: A generator that yields the runs it needs and receives their outcomes by key.
_Course: TypeAlias = Generator[Sequence[PreparedRun], Mapping[str, Outcome], None]


class Schedule:
    """The runs of a matrix: which are finished, which are waiting, and which the results require next."""

    def __init__(self, matrix: Matrix, store: Store, data: Mapping[str, TaskData]) -> None:
        """Look up the finished runs.

        Args:
            matrix: what is compared.
            store: the store for results.
            data: the data of every task, by its name.

        Raises:
            GenFTError: a run cannot be executed.
        """
        self.matrix, self.store, self.data = matrix, store, data
        self.source = find_model(matrix.model)  # only once, because its fingerprint reads all weights
        self.waiting: list[PreparedRun] = []
        self.outcomes: dict[str, Outcome] = {}
        self._roles: dict[tuple[Any, ...], Roles] = {}  # assigned once for all runs that share them
        self._labels: dict[str, str] = {}
        #: (label, run) of the compared runs that are known and finished so far
        self.compared: list[tuple[str, PreparedRun]] = []
        self._asked: dict[str, PreparedRun] = {}
        self._courses: list[tuple[_Course, Sequence[PreparedRun]]] = []
        for task in matrix.tasks:
            for entry in matrix.entries:
                course = self._course(task, entry)
                self._courses.append((course, self._ask(next(course))))
        self._advance()

    @property
    def failures(self) -> list[tuple[PreparedRun, GenFTError]]:
        return [(self._asked[key], o) for key, o in self.outcomes.items() if isinstance(o, GenFTError)]

    @property
    def planned(self) -> int:
        """The total number of runs, as far as is known now."""
        return max(len(self.matrix), len(self._asked))

    def run(
        self, jobs: int = 1, report_to: Sequence[str] = (), cluster: Cluster | None = None
    ) -> Iterator[tuple[PreparedRun, Outcome | Progress | Inferred]]:
        """Execute the unfinished runs and yield their events. A failed run is recorded, and the others continue.

        Args:
            jobs: the number of parallel processes.
            report_to: trackers.
            cluster: where to run instead of on this machine.
        """
        if cluster is None:
            messages = run_side_by_side(self._next, self.store.out, jobs, report_to)
        else:
            messages = cluster.run(self._next, self.store.out, report_to)
        for run, message in messages:
            if isinstance(message, (Result, GenFTError)):
                self.outcomes[run.key] = message
                if isinstance(message, GenFTError):
                    self.store.fail(_failure(run, message))
                self._advance()
            yield run, message

    def one_per_task(self) -> list[PreparedRun]:
        """One run of every task, to show its splits."""
        return list({run.data.task.name: run for run in reversed(self._asked.values())}.values())[::-1]

    def seconds_left(self) -> float | None:
        """An estimate from finished runs: of the same task if there are any, otherwise by the number of steps."""
        done = [r for r in self.outcomes.values() if isinstance(r, Result)]
        if not done:
            return None
        per_step = statistics.median(r.cost.seconds / max(1, r.history.steps) for r in done)
        by_task = {
            name: statistics.median(r.cost.seconds for r in done if r.task == name) for name in {r.task for r in done}
        }
        known = [by_task.get(p.data.task.name, per_step * p.steps) for p in self._asked.values()]
        unknown = self.planned - len(self._asked)
        left = [by_task.get(p.data.task.name, per_step * p.steps) for p in self.waiting]
        return sum(left) + unknown * statistics.mean(known)

    def _next(self) -> PreparedRun | None:
        """The next run, preferably one that no other process has claimed."""
        if not self.waiting:
            return None
        free = (n for n, run in enumerate(self.waiting) if not self.store.claimed(run.key))
        return self.waiting.pop(next(free, 0))

    def label(self, run: PreparedRun) -> str:
        """A name that tells a run from the others."""
        return f"{run.data.task.name} {self._labels[run.key]} seed {run.spec.seed}"

    def _ask(self, runs: Sequence[PreparedRun]) -> Sequence[PreparedRun]:
        for run in runs:
            if run.key in self._asked:
                continue
            self._asked[run.key] = run
            if (result := run.stored(self.store)) is not None:
                self.outcomes[run.key] = result
            else:
                self.waiting.append(run)
        return runs

    def _advance(self) -> None:
        """Send the outcomes to every course whose runs are all finished, until each is waiting or has ended."""
        going = []
        for course, runs in self._courses:
            try:
                while all(run.key in self.outcomes for run in runs):
                    runs = self._ask(course.send({run.key: self.outcomes[run.key] for run in runs}))
                going.append((course, runs))
            except StopIteration:
                pass
        self._courses = going

    def _course(self, task: Task, entry: Entry) -> _Course:
        rate = None
        if self.matrix.grid:
            rate = yield from self._choose_rate(task, entry)
            if rate is None:
                return
        runs = [self._prepare(task, entry, seed, rate) for seed in self.matrix.seeds]
        yield runs
        self.compared += [(entry.label, run) for run in runs]
        self.store.add_compared(
            ComparedRun(matrix=self.matrix.name, task=task.name, label=entry.label, seed=run.spec.seed, key=run.key)
            for run in runs
            if isinstance(self.outcomes[run.key], Result)
        )

    def _choose_rate(
        self, task: Task, entry: Entry
    ) -> Generator[Sequence[PreparedRun], Mapping[str, Outcome], float | None]:
        """The learning rate with the best score on the selection split, or None if every run failed."""
        scores: dict[float, float] = {}
        wanted = list(self.matrix.grid)
        for _ in range(_EXTENSIONS + 1):
            try:
                runs = {rate: self._prepare(task, entry, self.matrix.seeds[0], rate) for rate in wanted}
            except ConfigError:
                if not scores:
                    raise
                break  # the rate beyond the edge is not allowed: it is below the schedule's last rate
            outcomes = yield list(runs.values())
            scores |= {rate: selecting_score(outcomes[run.key]) for rate, run in runs.items()}
            wanted = beyond_the_edge(scores)
            if not wanted:
                break
        best = max(sorted(scores), key=scores.__getitem__)
        return best if math.isfinite(scores[best]) else None

    def _prepare(self, task: Task, entry: Entry, seed: int, rate: float | None) -> PreparedRun:
        spec = self.matrix.spec(task, entry, seed, rate)
        roles_key = task.name, spec.protocol, spec.limit_train, spec.limit_eval, spec.limit_select
        run = prepare(spec, self.data[task.name], self.source, self._roles.get(roles_key), entry.method)
        self._roles[roles_key] = run.roles
        self._labels[run.key] = entry.label
        return run


def selecting_score(outcome: Outcome) -> float:
    """How good the best epoch is on the selection split, larger being better; minus infinity for a failed run."""
    if not isinstance(outcome, Result):
        return -math.inf
    metric = METRICS[outcome.history.selected_by or outcome.scores.metric]
    values = [epoch[metric.name] for epoch in outcome.history.epochs]
    return max(values) if metric.higher_is_better else -min(values)


def beyond_the_edge(scores: Mapping[float, float]) -> list[float]:
    """The next learning rate if the best score occurs only at an edge; empty if it occurs inside the grid."""
    rates = sorted(scores)
    best = max(scores.values())
    if len(rates) < 2 or not math.isfinite(best) or any(scores[rate] == best for rate in rates[1:-1]):
        return []
    if scores[rates[0]] == best:
        return [_round(rates[0] * rates[0] / rates[1])]
    return [_round(rates[-1] * rates[-1] / rates[-2])]


def _round(rate: float) -> float:
    """``rate`` to one digit: 1e-3, 3e-3, 1e-2 is followed by 3e-2."""
    return float(f"{rate:.1g}")


def _failure(run: PreparedRun, error: GenFTError) -> Failure:
    spec = run.spec
    return Failure(
        key=run.key,
        task=spec.task.name,
        method=spec.method,
        seed=spec.seed,
        error=str(error),
        spec=spec.model_dump(mode="json"),
    )
