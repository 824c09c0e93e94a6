"""What is compared: every entry on every task with every seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genft.api.registry import MethodInfo
from genft.api.settings import parse_settings, split_outside_brackets
from genft.data import Task
from genft.errors import ConfigError
from genft.methods import get_method
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.spec import RunSpec


@dataclass(frozen=True)
class Entry:
    """A column of the comparison: a method, with any settings that differ from its defaults."""

    label: str
    method: MethodInfo
    settings: Mapping[str, Any] = field(default_factory=dict)


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
