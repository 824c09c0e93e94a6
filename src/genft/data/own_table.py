"""A user's own table before it is a task: what the user says about it, and what it contains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from genft.data.tables import Table, columns_of, read_table
from genft.errors import ConfigError, DataError


@dataclass(frozen=True)
class OwnTable:
    """A file whose columns tell what kind of task it is. It is read once, and only if the columns do not suffice.

    Attributes:
        texts, label: the columns that the user named.
        prompting: values of :class:`~genft.data.prompting.Prompting` that the user set.
        certain: whether the columns must leave no doubt, because the user did not name the family.
    """

    path: Path
    encoding: str = "utf-8"
    texts: Sequence[str] = ()
    label: str | None = None
    prompting: Mapping[str, Any] = field(default_factory=dict)
    certain: bool = True

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; empty if they cannot be read, which reading the task explains."""
        if self.path.suffix.lower() == ".json":  # its columns are known once all is read
            return self.table.columns if self.table else ()
        return columns_of(self.path, self.encoding)

    @cached_property
    def table(self) -> Table | None:
        """The rows, or None if they cannot be read, which reading the task explains."""
        try:
            return read_table(self.path, self.encoding)
        except (DataError, ConfigError):
            return None
