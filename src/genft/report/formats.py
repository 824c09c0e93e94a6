"""A report for the terminal, and as Markdown, CSV and JSON. The HTML page is written by page.py.

Names of tasks, methods and models come from other people's files. Control characters in them are shown as escapes in
everything that a terminal or a browser may print, and Markdown's own characters are escaped.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from rich.console import Group
from rich.text import Text

from genft.errors import visible
from genft.families.metrics import METRICS, Metric
from genft.records import finite
from genft.report.boards import SUITES, Board
from genft.report.collect import Report
from genft.report.command import command
from genft.report.doubts import doubts
from genft.report.significance import ComparedBoard, Differences, Tested
from genft.report.style import table
from genft.report.tables import (
    Cell,
    ReportTable,
    heading,
    limits_text,
    mean_rows,
    protocol_note,
    score_notes,
    tables,
)
from genft.runs.measured import Result
from genft.runs.spec import LIMITS


def _tables(report: Report) -> list[ReportTable]:
    return [table for board in report.boards for table in tables(*board)]


def as_rich(report: Report) -> Group:
    """The report as rich renderables for the terminal."""
    parts: list[Any] = []
    for made in _tables(report):
        shown = table(*map(visible, made.columns), right=[visible(column) for column in made.columns[1:]])
        for column in shown.columns:
            column.no_wrap = False
        for row in made.rows:
            shown.add_row(*(_text(cell.text, cell.style) for cell in row))
        parts += [_text(made.title, "bold"), shown, *(_text(note, "dim") for note in made.notes), Text()]
    return Group(*parts, *(_text(note, "red") for note in report.notes))


def _text(text: str, style: str) -> Text:
    return Text(visible(text), style=style)


def as_markdown(report: Report) -> str:
    """The report as Markdown: each table under a heading, with its notes as a list."""
    lines = []
    for made in _tables(report):
        header = [_md(column) for column in made.columns]
        lines += [f"### {_md(made.title)}", "", _md_row(header), "| --- |" + " ---: |" * (len(header) - 1)]
        lines += [_md_row([_md_cell(cell) for cell in row]) for row in made.rows]
        lines += ["", *(f"- {_md(note)}" for note in made.notes), ""]
    return "\n".join([*lines, *(f"- {_md(note)}" for note in report.notes), ""])


def _md(text: str) -> str:
    """``text`` escaped for Markdown; an underscore within a word needs no escape."""
    return re.sub(r"[\\`*\[\]<>|~#]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", visible(text))


def _md_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_cell(cell: Cell) -> str:
    text = _md(cell.text.strip())
    marks = {"bold": "**", "dim": "*"}.get(cell.style, "")
    return f"{marks}{text}{marks}" if text else ""


def as_csv(report: Report) -> str:
    """One row per table, task and method; scores and differences as stored, not multiplied by 100."""
    text = io.StringIO()
    rows = [row for board in report.boards for row in _csv_rows(*board)]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: visible(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def _csv_rows(board: Board, differences: Differences) -> Iterator[dict[str, Any]]:
    for (task, label), runs in board.runs.items():
        first = runs[0]
        score = board.score(task, label)
        printed = board.published(task, label)[:1]
        tested = differences.tasks.get((task, label))
        difference = tested.difference if tested else None
        yield {
            "model": board.model,
            "suite": board.suite,
            "group": board.group(task),
            "protocol": board.protocol,
            **dict(zip(LIMITS, board.limits, strict=True)),
            "epochs": first.spec.get("training", {}).get("epochs"),
            "task": task,
            "metric": first.scores.metric,
            "method": label,
            "mean": score.mean if score else None,
            "deviation": None if score is None or math.isnan(score.deviation) else score.deviation,
            "n": len(runs),
            "seeds": " ".join(str(run.seed) for run in runs),
            "constant_seeds": " ".join(str(run.seed) for run in runs if run.key in board.constant),
            "rank": board.ranks(task).get(label),
            "adapter_parameters": first.counts.adapter,
            "head_parameters": first.counts.head,
            "seconds_per_step": fmean(run.cost.seconds_per_step for run in runs),
            "peak_memory_bytes": max(run.cost.peak_memory_bytes for run in runs),
            "published_percent": printed[0].value if printed else None,
            "published_backbone": printed[0].backbone if printed else None,
            "published_source": printed[0].source if printed else None,
            "against": differences.reference,
            "difference": difference.value if difference else None,
            "low": difference.low if difference else None,
            "high": difference.high if difference else None,
            "p": difference.p if difference else None,
            "p_holm": tested.p if tested else None,
            "keys": " ".join(run.key for run in runs),
        }


def as_json(report: Report) -> str:
    content = {"boards": [as_dict(board) for board in report.boards], "notes": report.notes}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def as_dict(compared: ComparedBoard) -> dict[str, Any]:
    """A whole board, with its runs but without their predictions."""
    board, differences = compared
    return finite(
        {
            "title": board.title,
            "heading": heading(board),
            "model": board.model,
            "suite": board.suite,
            "suite_title": SUITES.get(board.suite, board.suite),
            "protocol": {"name": board.protocol, "note": protocol_note(board)},
            "limits": {**dict(zip(LIMITS, board.limits, strict=True)), "text": limits_text(board)},
            "seeds": board.seeds,
            "metrics": {metric.name: _metric(metric) for metric in METRICS.values()},
            "tasks": [
                {
                    "name": task,
                    "group": board.group(task),
                    "metric": board.metric(task).name,
                    "examples": board.first(task).examples,
                    "ranks": board.ranks(task),
                }
                for task in board.tasks
            ],
            "common": board.common,
            "methods": [
                {"label": label, "method": board.method(label), **vars(board.costs(label))} for label in board.labels
            ],
            "means": [
                {
                    "name": name,
                    "tasks": tasks,
                    **{label: board.mean(label, tasks)._asdict() for label in board.complete},
                }
                for name, tasks in mean_rows(board)
            ],
            "mean_ranks": {label: board.mean_rank(label) for label in board.complete},
            "scores": [
                {
                    "task": task,
                    "label": label,
                    **score._asdict(),
                    "published": [vars(number) for number in board.published(task, label)],
                    "runs": [_run(board, run) for run in runs],
                }
                for (task, label), runs in board.runs.items()
                if (score := board.score(task, label))
            ],
            "differences": _differences(differences),
            "notes": score_notes(board),
            "doubts": doubts(board),
        }
    )


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "text": metric.text,
        "higher_is_better": metric.higher_is_better,
        "scale": metric.scale,
        "digits": metric.digits,
        "unit": metric.unit,
    }


def _differences(differences: Differences) -> dict[str, Any]:
    def one(tested: Tested) -> dict[str, Any]:
        return {**vars(tested.difference), "p_holm": tested.p, "real": tested.real}

    return {
        "reference": differences.reference,
        "tasks": [{"task": task, "label": label, **one(t)} for (task, label), t in differences.tasks.items()],
        "means": {label: one(t) for label, t in differences.means.items()},
        "notes": differences.notes,
    }


def _run(board: Board, run: Result) -> dict[str, Any]:
    content = run.model_dump(mode="json", exclude={"predictions", "targets"})
    return {**content, "limited": run.limited, "constant": run.key in board.constant, "command": command(run)}
