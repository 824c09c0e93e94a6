"""Where the commands write: text and bars for people, JSON for scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.segment import Segment

from genft.records import finite

#: Characters that steer a terminal or turn the direction of what follows, except line ends and tabs.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Screen(Console):
    """A console on which names, texts and paths cannot steer the terminal: their control characters become escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if not segment.control and _STEERING.search(segment.text):
                text = _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), segment.text)
                yield Segment(text, segment.style)
            else:
                yield segment


errors = Screen(stderr=True)


def screen(as_json: bool = False) -> Console:
    """Where text for people goes: stdout, or stderr if stdout is for a script."""
    return Screen(stderr=as_json, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; records and dataclasses become objects, NaN and infinities null."""
    print(json.dumps(finite(to_jsonable_python(value)), indent=2, ensure_ascii=False))


def bars(console: Console, *columns: ProgressColumn) -> Progress:
    """Progress bars with a description and a count; they disappear at the end, and appear only on a terminal."""
    first = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    return Progress(*first, *columns, console=console, transient=True, disable=not console.is_terminal)
