"""Many runs: every entry on every task with every seed, each in a process of its own, once.

The runs of one entry on one task belong together: where a grid of learning rates is given, the rate is chosen first, on
the selecting split of the first seed, and the runs that are compared follow. What is finished is in the store; a matrix
that is started again goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from genft.data import Task, TaskData
from genft.errors import ConfigError, GenFTError
from genft.methods import get_method
from genft.models.load import find_model
from genft.presets import Preset
from genft.runs.protocols import Roles
from genft.runs.spec import RunSpec, build_spec, parse_settings, split_outside_brackets
from genft.runs.store import ComparedRun, Failure, Result, Store
from genft.sweeps.cluster import Cluster
from genft.sweeps.processes import run_side_by_side
from genft.training.callbacks import Inferred, Progress
from genft.training.run import Plan, prepare

#: A grid whose best rate is at an edge is extended there, at most so often.
_EXTENSIONS = 4

Outcome: TypeAlias = Result | GenFTError


@dataclass(frozen=True)
class Entry:
    """A column of the comparison: a method, with settings where they are not the method's own."""

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def parse_entries(text: str) -> tuple[Entry, ...]:
    """``"genft,vectorfit[train_bias=false]"`` → entries, each labelled as it was written.

    Raises:
        ConfigError: every method and setting that does not exist, at once.
    """
    entries: list[Entry] = []
    problems: list[str] = []
    for label in dict.fromkeys(split_outside_brackets(text)):
        name, bracket, rest = label.partition("[")
        try:
            if bracket and not rest.endswith("]"):
                raise ConfigError(f"--methods {label}: the bracket is not closed")
            settings = parse_settings(get_method(name), split_outside_brackets(rest[:-1]))
            entries.append(Entry(label, name, settings))
        except ConfigError as e:
            problems += e.problems
    if not entries and not problems:
        problems.append(f"--methods {text!r}: names no method")
    if problems:
        raise ConfigError(problems)
    return tuple(entries)


@dataclass(frozen=True)
class Matrix:
    """What is compared.

    Attributes:
        grid: learning rates to choose from, rising; empty takes the preset's.
        training: what the user set of :class:`~genft.runs.spec.Training`, for every run.
        said: what the user set of :class:`~genft.runs.spec.RunSpec`: protocol and limits.
    """

    tasks: tuple[Task, ...]
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    model: str
    preset: Preset
    grid: tuple[float, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Runs in all, if no grid is extended; the first seed's run at the chosen rate is one of the grid's."""
        return len(self.tasks) * len(self.entries) * (len(self.seeds) + max(0, len(self.grid) - 1))

    @property
    def name(self) -> str:
        """Equal for matrices whose results stand in one table."""
        content: list[Any] = [self.model, self.preset.model_dump(mode="json"), dict(self.training), dict(self.said)]
        if self.grid:  # on whose rates, and on which seed, the choice of the learning rate rests
            content += [self.grid, self.seeds[0]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def spec(self, task: Task, entry: Entry, seed: int, rate: float | None = None) -> RunSpec:
        training = dict(self.training)
        if rate is not None:
            training["learning_rate"] = rate
            if entry.method == "linear":  # which trains nothing but the head
                training["head_learning_rate"] = rate
        return build_spec(
            task,
            self.model,
            self.preset,
            settings=entry.settings,
            training=training,
            method=entry.method,
            seed=seed,
            **self.said,
        ).spec


#: Asks for runs, and is sent their outcomes by key; ends with the runs that are compared.
_Course: TypeAlias = Generator[Sequence[Plan], Mapping[str, Outcome], None]


class Schedule:
    """The runs of a matrix: which are finished, which wait, and which the results ask for next."""

    def __init__(self, matrix: Matrix, store: Store, data: Mapping[str, TaskData]) -> None:
        """Look up what is finished.

        Args:
            data: of every task, by its name.

        Raises:
            GenFTError: a spec that cannot run.
        """
        self.matrix, self.store, self.data = matrix, store, data
        self.source = find_model(matrix.model)  # once: its fingerprint reads all weights
        self.waiting: list[Plan] = []
        self.outcomes: dict[str, Outcome] = {}
        self._roles: dict[tuple[Any, ...], Roles] = {}  # once for all runs that share them
        self._labels: dict[str, str] = {}
        #: (label, run) of the runs that are compared, as far as they are known and finished
        self.compared: list[tuple[str, Plan]] = []
        self._asked: dict[str, Plan] = {}
        self._courses: list[tuple[_Course, Sequence[Plan]]] = []
        for task in matrix.tasks:
            for entry in matrix.entries:
                course = self._course(task, entry)
                self._courses.append((course, self._ask(next(course))))
        self._advance()

    @property
    def failures(self) -> list[tuple[Plan, GenFTError]]:
        return [(self._asked[key], o) for key, o in self.outcomes.items() if isinstance(o, GenFTError)]

    @property
    def planned(self) -> int:
        """Runs in all, as far as it is known now."""
        return max(len(self.matrix), len(self._asked))

    def run(
        self, jobs: int = 1, report_to: Sequence[str] = (), cluster: Cluster | None = None
    ) -> Iterator[tuple[Plan, Outcome | Progress | Inferred]]:
        """Do what is not finished, in ``jobs`` processes or on a cluster; yields what happens. A run that fails is
        noted, and the others go on."""
        if cluster is None:
            messages = run_side_by_side(self._next, self.store.out, jobs, report_to)
        else:
            messages = cluster.run(self._next, self.store.out, report_to)
        for plan, message in messages:
            if isinstance(message, (Result, GenFTError)):
                self.outcomes[plan.key] = message
                if isinstance(message, GenFTError):
                    self.store.fail(_failure(plan, message))
                self._advance()
            yield plan, message

    def one_per_task(self) -> list[Plan]:
        """A run of every task, to say what its splits are."""
        return list({plan.data.task.name: plan for plan in reversed(self._asked.values())}.values())[::-1]

    def seconds_left(self) -> float | None:
        """An estimate from the runs that are finished: those of the same task, else by the number of steps."""
        done = [r for r in self.outcomes.values() if isinstance(r, Result)]
        if not done:
            return None
        per_step = statistics.median(r.cost.seconds / max(1, r.history.steps) for r in done)
        of_task = {
            name: statistics.median(r.cost.seconds for r in done if r.task == name) for name in {r.task for r in done}
        }
        known = [of_task.get(p.data.task.name, per_step * p.steps) for p in self._asked.values()]
        unknown = self.planned - len(self._asked)
        left = [of_task.get(p.data.task.name, per_step * p.steps) for p in self.waiting]
        return sum(left) + unknown * statistics.mean(known)

    def _next(self) -> Plan | None:
        """The next run, one that no other process is at if there is any."""
        if not self.waiting:
            return None
        free = (n for n, plan in enumerate(self.waiting) if not self.store.claimed(plan.key))
        return self.waiting.pop(next(free, 0))

    def label(self, plan: Plan) -> str:
        """What a run is called among the others."""
        return f"{plan.data.task.name} {self._labels[plan.key]} seed {plan.spec.seed}"

    def _ask(self, plans: Sequence[Plan]) -> Sequence[Plan]:
        for plan in plans:
            if plan.key in self._asked:
                continue
            self._asked[plan.key] = plan
            if (result := self.store.get(plan.key)) is not None:
                self.outcomes[plan.key] = result
            else:
                self.waiting.append(plan)
        return plans

    def _advance(self) -> None:
        """Send every course whose runs are all finished on, until each waits or has ended."""
        going = []
        for course, plans in self._courses:
            try:
                while all(plan.key in self.outcomes for plan in plans):
                    plans = self._ask(course.send({plan.key: self.outcomes[plan.key] for plan in plans}))
                going.append((course, plans))
            except StopIteration:
                pass
        self._courses = going

    def _course(self, task: Task, entry: Entry) -> _Course:
        rate = None
        if self.matrix.grid:
            rate = yield from self._choose_rate(task, entry)
            if rate is None:
                return
        plans = [self._plan(task, entry, seed, rate) for seed in self.matrix.seeds]
        yield plans
        self.compared += [(entry.label, plan) for plan in plans]
        self.store.add_compared(
            ComparedRun(matrix=self.matrix.name, task=task.name, label=entry.label, seed=plan.spec.seed, key=plan.key)
            for plan in plans
            if isinstance(self.outcomes[plan.key], Result)
        )

    def _choose_rate(self, task: Task, entry: Entry) -> Generator[Sequence[Plan], Mapping[str, Outcome], float | None]:
        """The learning rate with the best selecting score; None if every one failed."""
        found: dict[float, float] = {}
        wanted = list(self.matrix.grid)
        for _ in range(_EXTENSIONS + 1):
            try:
                plans = {rate: self._plan(task, entry, self.matrix.seeds[0], rate) for rate in wanted}
            except ConfigError:
                if not found:
                    raise
                break  # beyond the edge is a rate that cannot be: below the last one of the schedule
            outcomes = yield list(plans.values())
            found |= {rate: selecting_score(outcomes[plan.key]) for rate, plan in plans.items()}
            wanted = beyond_the_edge(found)
            if not wanted:
                break
        best = max(sorted(found), key=found.__getitem__)
        return best if math.isfinite(found[best]) else None

    def _plan(self, task: Task, entry: Entry, seed: int, rate: float | None) -> Plan:
        spec = self.matrix.spec(task, entry, seed, rate)
        of_roles = task.name, spec.protocol, spec.limit_train, spec.limit_eval, spec.limit_select
        plan = prepare(spec, self.data[task.name], self.source, self._roles.get(of_roles))
        self._roles[of_roles] = plan.roles
        self._labels[plan.key] = entry.label
        return plan


def selecting_score(outcome: Outcome) -> float:
    """The best epoch's metric on the split that selects; minus infinity for a failed run."""
    if not isinstance(outcome, Result):
        return -math.inf
    return max(epoch[outcome.scores.metric] for epoch in outcome.history.epochs)


def beyond_the_edge(found: Mapping[float, float]) -> list[float]:
    """The next learning rate where the best score is at an edge and nowhere else; empty where it is inside."""
    rates = sorted(found)
    best = max(found.values())
    if len(rates) < 2 or not math.isfinite(best) or any(found[rate] == best for rate in rates[1:-1]):
        return []
    if found[rates[0]] == best:
        return [_round(rates[0] * rates[0] / rates[1])]
    return [_round(rates[-1] * rates[-1] / rates[-2])]


def _round(rate: float) -> float:
    """1e-3, 3e-3, 1e-2 goes on with 3e-2."""
    return float(f"{rate:.1g}")


def _failure(plan: Plan, error: GenFTError) -> Failure:
    spec = plan.spec
    return Failure(
        key=plan.key,
        task=spec.task.name,
        method=spec.method,
        seed=spec.seed,
        error=str(error),
        spec=spec.model_dump(mode="json"),
    )
