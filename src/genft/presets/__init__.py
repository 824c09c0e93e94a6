"""Presets: hyper-parameters as data, each with its source. A preset is a difference from the defaults.

A preset is one TOML file. A folder of the same name next to it may hold tables with one row per task:
``paper/genft_vtab1k.toml`` is Table 8 of GenFT's paper.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from genft.errors import ConfigError, not_one_of
from genft.records import Record, check, read_toml


class Space(Record):
    """The values that a search may try for one parameter: ``choices``, or the range from ``low`` to ``high``."""

    model_config = ConfigDict(allow_inf_nan=False)

    choices: tuple[bool | int | float | str, ...] = ()
    low: int | float | None = Field(None, description="whole numbers if low and high are")
    high: int | float | None = None
    log: bool = Field(False, description="sample evenly in the logarithm")
    when: dict[str, Any] = Field(
        default_factory=dict, description="only if other searched parameters have these values"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Space:
        if bool(self.choices) == (self.low is not None and self.high is not None):
            raise ValueError("needs either choices, or low and high")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def holds(self, value: Any) -> bool:
        """Whether the space contains ``value``."""
        if self.choices:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, (int, float)) and self.low <= value <= self.high


class Values(Record):
    """Values from one source: for the run, for training, and for the method's configuration."""

    source: str = Field("", description="where they are printed; if empty, the source of the preset or table")
    run: dict[str, Any] = Field(default_factory=dict, description="fields of the run itself: its seed")
    training: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    not_used: dict[str, Any] = Field(
        default_factory=dict, description="values in the source that genft has no setting for"
    )
    note: str = ""
    search: dict[str, Space] = Field(default_factory=dict, description="what `genft search` varies, in this order")


class Table(Record):
    """One method on one benchmark: values for all tasks, and one row per task."""

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
    """Training values for all methods, and specific values per method, or per method and task."""

    name: str
    source: str
    training: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, Values] = Field(default_factory=dict)
    tables: tuple[Table, ...] = ()

    def select(self, method: str, task: str) -> list[tuple[str, Values]]:
        """This preset's values for ``method`` on ``task``: (source, values), later ones win.

        Raises:
            ConfigError: it consists of tables, none of which has this row, and it has no values for the method itself.
        """
        layers = [(f"preset {self.name}", Values.model_validate({"training": self.training}))]
        if method in self.methods:
            source = self.methods[method].source
            layers.append(
                (f"preset {self.name}, for {method}" + (f": {source}" if source else ""), self.methods[method])
            )
        if table := self.table(method, task):
            layers += [(f"preset {self.name}: {source}", values) for source, values in table.row(task)]
        return layers

    def spaces(self, method: str) -> dict[str, Space]:
        """What a search for ``method`` varies: this preset's spaces, or the default preset's if it has none."""
        own = self.methods[method].search if method in self.methods else {}
        return own or (_default().spaces(method) if self.name != "default" else {})

    def table(self, method: str, task: str) -> Table | None:
        """The table with a row for ``method`` on ``task``, or None if there is none and none is needed."""
        candidates = [table for table in self.tables if table.method == method]
        for table in candidates:
            if task in table.tasks:
                return table
        if not self.tables or method in self.methods:
            return None
        if not candidates:
            methods = sorted({table.method for table in self.tables} | set(self.methods))
            raise ConfigError(not_one_of(f"preset {self.name}", method, methods, what="is not in it"))
        tasks = [name for table in candidates for name in table.tasks]
        raise ConfigError(not_one_of(f"preset {self.name}, {method}", task, tasks, what="has no row"))


@functools.cache  # every run of a matrix needs it
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
        raise ConfigError(not_one_of("preset", name, _shipped()) + "; the name of your own file must end in .toml")
    tables = [check(Table, read_toml(file), str(file)) for file in sorted(path.with_suffix("").glob("*.toml"))]
    return check(Preset, read_toml(path) | ({"tables": tables} if tables else {}), str(path))
