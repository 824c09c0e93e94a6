"""The common style of terminal tables, and numbers as text. It imports no other package of genft."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in genft's style; the columns named in ``right`` hold numbers."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        header = Text(column, overflow="fold", no_wrap=False)  # labels contain brackets and must stay readable in full
        made.add_column(header, justify="right" if column in right else "left", no_wrap=column in right)
    return made


def count(n: int) -> str:
    """A number of parameters: exact below ten million, else ``22.71 M``."""
    return f"{n:,}" if n < 1e7 else f"{n / 1e6:.2f} M"


def size(n: int) -> str:
    """Bytes for people: ``1.21 GB``, ``282 kB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n} B"


def duration(seconds: float) -> str:
    """Time for people: ``42 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
