"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from genft.runs.store import Result


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table in the one style of genft; the columns named in ``right`` hold numbers."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        header = Text(column, overflow="fold", no_wrap=False)  # labels hold brackets, and must be read whole
        made.add_column(header, justify="right" if column in right else "left", no_wrap=column in right)
    return made


#: What the columns of :func:`comparison` mean, for the line below it.
LEGEND = (
    "interval: 95 % over the examples. adapter, head: trained parameters. s/step: median. "
    "memory: the run's peak. bytes: the saved adapter."
)


def comparison(results: Sequence[Result]) -> Table:
    """One row per result, the best score first: score and interval, parameters, time, memory, size."""
    numbers = (results[0].scores.metric, "interval", "adapter", "head", "s/step", "memory", "bytes")
    made = table("method", *numbers, right=("method", *numbers))
    made.columns[0].justify = "left"
    for r in sorted(results, key=lambda r: -r.scores.value):
        made.add_row(
            r.method,
            f"{r.scores.value:.3f}",
            f"{r.scores.interval[0]:.3f}–{r.scores.interval[1]:.3f}",
            count(r.counts.adapter),
            count(r.counts.head),
            f"{r.cost.seconds_per_step:.3f}",
            size(r.cost.peak_memory_bytes),
            f"{r.cost.adapter_bytes:,}",
        )
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
