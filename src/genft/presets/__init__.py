"""Presets: hyper-parameters as data, each with its source. A preset is a difference from the defaults.

A preset is one TOML file. A folder of the same name beside it holds tables in which every task has a row of its
own: ``paper/genft_vtab1k.toml`` is Table 8 of GenFT's paper.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from genft.errors import ConfigError, not_one_of
from genft.records import Record, check, read_toml


class Space(Record):
    """What a search may try for one parameter: some ``choices``, or all values from ``low`` to ``high``."""

    choices: tuple[bool | int | float | str, ...] = ()
    low: int | float | None = Field(None, description="whole numbers where low and high are")
    high: int | float | None = None
    log: bool = Field(False, description="evenly in the logarithm")
    when: dict[str, Any] = Field(default_factory=dict, description="only where other searched parameters are so")

    @model_validator(mode="after")
    def _one_kind(self) -> Space:
        if bool(self.choices) == (self.low is not None and self.high is not None):
            raise ValueError("needs either choices, or low and high")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of its values."""
        if self.choices:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, (int, float)) and self.low <= value <= self.high


class Values(Record):
    """Values that one source gives: for the run, for training, and for the method's configuration."""

    source: str = Field("", description="where they are printed; empty: the source of the preset or table")
    run: dict[str, Any] = Field(default_factory=dict, description="of the run itself: its seed")
    training: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    not_used: dict[str, Any] = Field(
        default_factory=dict, description="what the source also says and genft has no setting for"
    )
    note: str = ""
    search: dict[str, Space] = Field(default_factory=dict, description="what `genft search` varies, in this order")


class Table(Record):
    """One method on one benchmark: values for all tasks, and a row per task."""

    method: str
    benchmark: str
    model: str = Field(description="the pretrained model that the values are for")
    source: str
    common: tuple[Values, ...] = ()
    tasks: dict[str, Values]

    def row(self, task: str) -> list[tuple[str, Values]]:
        """(source, values) for ``task``; later ones win."""
        return [(values.source or self.source, values) for values in (*self.common, self.tasks[task])]


class Preset(Record):
    """Training values for all methods, and per method, or per method and task, its own."""

    name: str
    source: str
    training: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, Values] = Field(default_factory=dict)
    tables: tuple[Table, ...] = ()

    def select(self, method: str, task: str) -> list[tuple[str, Values]]:
        """What this preset says about ``method`` on ``task``: (source, values), later ones win.

        Raises:
            ConfigError: it consists of tables, none has this row, and it says nothing of the method in general.
        """
        found = [(f"preset {self.name}", Values.model_validate({"training": self.training}))]
        if method in self.methods:
            source = self.methods[method].source
            found.append(
                (f"preset {self.name}, for {method}" + (f": {source}" if source else ""), self.methods[method])
            )
        if table := self.table(method, task):
            found += [(f"preset {self.name}: {source}", values) for source, values in table.row(task)]
        return found

    def spaces(self, method: str) -> dict[str, Space]:
        """What a search of ``method`` varies: this preset's spaces, or the default's where it has none."""
        own = self.methods[method].search if method in self.methods else {}
        return own or (_default().spaces(method) if self.name != "default" else {})

    def table(self, method: str, task: str) -> Table | None:
        """The table with a row for ``method`` on ``task``; None where there is none and none is needed."""
        of_method = [table for table in self.tables if table.method == method]
        for table in of_method:
            if task in table.tasks:
                return table
        if not self.tables or method in self.methods:
            return None
        if not of_method:
            methods = sorted({table.method for table in self.tables} | set(self.methods))
            raise ConfigError(not_one_of(f"preset {self.name}", method, methods, what="is not in it"))
        tasks = [name for table in of_method for name in table.tasks]
        raise ConfigError(not_one_of(f"preset {self.name}, {method}", task, tasks, what="has no row"))


@functools.cache  # every run of a matrix asks for it
def _default() -> Preset:
    return load_preset("default")


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def list_presets() -> list[str]:
    return list(_shipped())


def load_preset(name: str) -> Preset:
    """The preset called ``name``, or the one in the TOML file of that path, with the tables in its folder."""
    path = Path(name) if name.endswith(".toml") else _shipped().get(name)
    if path is None:
        raise ConfigError(not_one_of("preset", name, _shipped()) + "; a file of your own ends in .toml")
    tables = [check(Table, read_toml(file), str(file)) for file in sorted(path.with_suffix("").glob("*.toml"))]
    return check(Preset, read_toml(path) | ({"tables": tables} if tables else {}), str(path))
