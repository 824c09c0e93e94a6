"""Where the commands write: text and bars for people, JSON for scripts."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

from genft.records import finite

errors = Console(stderr=True)


def screen(as_json: bool = False) -> Console:
    """Where text for people goes: stdout, or stderr if stdout is for a script."""
    return Console(stderr=as_json, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; records and dataclasses become objects, NaN and infinities null."""
    print(json.dumps(finite(to_jsonable_python(value)), indent=2, ensure_ascii=False))


def bars(console: Console, *columns: ProgressColumn) -> Progress:
    """Progress bars with a description and a count; they disappear at the end, and appear only on a terminal."""
    first = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    return Progress(*first, *columns, console=console, transient=True, disable=not console.is_terminal)
