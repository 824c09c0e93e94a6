"""Reading settings from files and dictionaries: checked by pydantic, every problem reported at once."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from genft.errors import ConfigError, first_line, nearest
from genft.files import read_regular

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
    raw = read_regular(path)
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(f"{path}: is not valid TOML: {first_line(e)}") from None
    if where := _with_nul(values, ""):
        raise ConfigError(f"{path}: {where}: holds a NUL character (\\u0000), which no name or path can have")
    return values


def _with_nul(value: Any, where: str) -> str | None:
    """The name of the first text in ``value`` that has a NUL character, or None."""
    if isinstance(value, str):
        return where if "\0" in value else None
    items = value.items() if isinstance(value, dict) else enumerate(value, 1) if isinstance(value, list) else ()
    for key, inner in items:
        name = f"{where}.{key}".lstrip(".")
        if isinstance(key, str) and "\0" in key:
            return repr(name)
        if (place := _with_nul(inner, name)) is not None:
            return place
    return None


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


def setting_as_text(value: Any) -> str:
    """A setting in the form that ``--set`` takes."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def finite(value: Any) -> Any:
    """``value`` with NaN and infinities as None, since JSON has nothing else for them."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
