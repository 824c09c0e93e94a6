"""What is compared: every entry on every task with every seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from genft import published
from genft.api.registry import MethodInfo
from genft.api.settings import parse_settings, split_outside_brackets
from genft.data import Task
from genft.errors import ConfigError
from genft.methods import METHODS, get_method
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.spec import RunSpec


@dataclass(frozen=True)
class Entry:
    """A column of the comparison: a method, with any settings that differ from its defaults."""

    label: str
    method: MethodInfo
    settings: Mapping[str, Any] = field(default_factory=dict)


#: The word that stands for every method of the paper's table on the benchmark.
PAPER = "paper"


def spell_out(text: str, suites: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Replace the word ``paper`` by the methods of the paper's table.

    Args:
        text: as for :func:`parse_entries`.
        suites: the benchmarks of the tasks; ``paper`` needs exactly one, and one that the paper has a table for.

    Returns:
        The text, and the methods of the table that genft does not have.
    """
    words = split_outside_brackets(text)
    if PAPER not in words:
        return text, ()
    rows = published.methods_of(next(iter(suites))) if len(set(suites)) == 1 else ()
    if not rows:
        received = ", ".join(sorted(suite or "tasks of no benchmark" for suite in set(suites)))
        raise ConfigError(
            f"--methods {PAPER}: stands for the methods of one table of the paper, and the tasks belong to {received}; "
            f"allowed: the tasks of one of {', '.join(published.SUITES)}"
        )
    here = [name for name in rows if name in METHODS]
    spelled = [name for word in words for name in (here if word == PAPER else [word])]
    return ",".join(spelled), tuple(name for name in rows if name not in METHODS)


def parse_entries(text: str) -> tuple[Entry, ...]:
    """``"genft,vectorfit[train_bias=false]"`` → entries, each labelled as written.

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
            method = get_method(name)
            settings = parse_settings(method, split_outside_brackets(rest[:-1]))
            entries.append(Entry(label, method, settings))
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
        grid: learning rates to choose from, ascending; if empty, the preset's rate is used.
        training: the user's values of :class:`~genft.runs.settings.Training`, for every run.
        run: the user's values of :class:`~genft.runs.spec.RunSpec`: protocol and limits.
    """

    tasks: tuple[Task, ...]
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    model: str
    preset: Preset
    grid: tuple[float, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of runs if no grid is extended; the first seed's run at the chosen rate is one of the grid's."""
        return len(self.tasks) * len(self.entries) * (len(self.seeds) + max(0, len(self.grid) - 1))

    @property
    def name(self) -> str:
        """Equal for matrices whose results belong in one table."""
        content: list[Any] = [self.model, self.preset.model_dump(mode="json"), dict(self.training), dict(self.run)]
        if self.grid:  # the choice of the learning rate depends on its rates and on the seed
            content += [self.grid, self.seeds[0]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def spec(self, task: Task, entry: Entry, seed: int, rate: float | None = None) -> RunSpec:
        training = dict(self.training)
        if rate is not None:
            training["learning_rate"] = rate
        return build_spec(
            task,
            self.model,
            self.preset,
            settings=entry.settings,
            training=training,
            method=entry.method,
            seed=seed,
            **self.run,
        ).spec
