"""Results as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from genft.families.metrics import METRICS
from genft.report.style import count, size, table
from genft.runs.measured import Result
from genft.runs.store import is_constant

#: What the columns of :func:`comparison` mean; printed below the table.
LEGEND = (
    "interval: 95 % over the examples. adapter, head: trained parameters. s/step: median. "
    "memory: the run's peak. bytes: the saved adapter."
)


def comparison(results: Sequence[Result]) -> Table:
    """One row per result, best score first: score and interval, parameters, time, memory, size."""
    numbers = (results[0].scores.metric, "interval", "adapter", "head", "s/step", "memory", "bytes")
    made = table("method", *numbers, right=("method", *numbers))
    made.columns[0].justify = "left"
    higher = METRICS[results[0].scores.metric].higher_is_better
    for r in sorted(results, key=lambda r: (math.isnan(r.scores.value), -r.scores.value if higher else r.scores.value)):
        constant = is_constant(r)
        if constant:
            made.caption = "constant: the same prediction for every example, so training collapsed"
        made.add_row(
            f"{r.method} (constant)" if constant else r.method,
            f"{r.scores.value:.3f}",
            f"{r.scores.interval[0]:.3f}–{r.scores.interval[1]:.3f}",
            count(r.counts.adapter),
            count(r.counts.head),
            f"{r.cost.seconds_per_step:.3f}",
            size(r.cost.peak_memory_bytes),
            f"{r.cost.adapter_bytes:,}",
        )
    return made
