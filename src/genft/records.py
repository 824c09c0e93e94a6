"""Reading settings from files and dictionaries: checked by pydantic, every problem reported at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from genft.errors import ConfigError, DataError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Record(BaseModel):
    """A value that is read from or written to a file: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


R = TypeVar("R", bound=Record)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; if it cannot be read or parsed, the error is one sentence."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: is not valid TOML: {e}") from None


def check(record: type[R], values: Mapping[str, Any], where: str) -> R:
    """``record`` made from ``values``, or a :class:`ConfigError` with one sentence per problem."""
    try:
        return record.model_validate(values)
    except ValidationError as e:
        raise ConfigError([_sentence(record, problem, where) for problem in e.errors()]) from None


def _sentence(record: type[Record], problem: Mapping[str, Any], where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        known = record.model_fields if len(path) == 1 else ()
        close = nearest(path[-1], known)
        tail = f"allowed: {', '.join(known)}" + (f"; nearest: {close!r}" if close else "") if known else ""
        return f"{where}: unknown key {'.'.join(path)!r}" + (f"; {tail}" if tail else "")
    if problem["type"] == "missing":
        return f"{where}: {'.'.join(path)!r} is missing"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    received = "" if problem["type"] == "value_error" else f" (received {problem['input']!r})"
    return f"{where}: {'.'.join(path) + ': ' if path else ''}{message}{received}"
