"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from genft.results.store import Result


def table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """An empty table in the one style of genft; the columns named in ``right`` hold numbers."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return made


def comparison(results: Sequence[Result]) -> Table:
    """One row per result: score with its interval, parameters, time, memory, size. Best score first."""
    metric = results[0].metric
    numbers = (metric, "95 % interval", "adapter", "head", "s/step", "memory", "bytes saved")
    made = table("method", *numbers, right=numbers)
    for r in sorted(results, key=lambda r: -r.score):
        made.add_row(
            r.method,
            f"{r.score:.3f}",
            f"{r.interval[0]:.3f}–{r.interval[1]:.3f}",
            f"{r.adapter_parameters:,}",
            f"{r.head_parameters:,}",
            f"{r.seconds_per_step:.3f}",
            size(r.peak_memory_bytes),
            f"{r.adapter_bytes:,}",
        )
    return made


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
