"""The report as one self-contained HTML page, which loads nothing from the network. Its templates are in templates/."""

from __future__ import annotations

import base64
import json
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from genft.report.collect import Report
from genft.report.formats import as_dict
from genft.runs.store import Store

_MIME = {".svg": "image/svg+xml", ".png": "image/png"}


def render(store: Store, report: Report) -> str:
    """The page of a report, with the figures in the store's folder ``figures``."""
    boards = [board for board, _ in report.boards]
    runs = sum(len(cell) for board in boards for cell in board.runs.values())
    tasks = {task for board in boards for task in board.tasks}
    labels = {label for board in boards for label in board.labels}
    data = json.dumps({"boards": [as_dict(board) for board in report.boards]}, ensure_ascii=False)
    return (
        Environment(autoescape=True)
        .from_string(_template("report.html"))
        .render(
            title=f"genft: {store.out.resolve().name}",
            summary=", ".join([_number(len(labels), "method"), _number(len(tasks), "task"), _number(runs, "run")]),
            version=version("genft"),
            css=Markup(_template("report.css")),
            js=Markup(_template("report.js")),
            data=Markup(data.replace("<", "\\u003c")),  # so that no text in the data can end the script
            figures=[_figure(path) for path in sorted((store.out / "figures").glob("*")) if path.suffix in _MIME],
            notes=report.notes,
        )
    )


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("s" if n != 1 else "")


def _template(name: str) -> str:
    return (resources.files("genft.report") / "templates" / name).read_text(encoding="utf-8")


def _figure(path: Path) -> dict[str, str]:
    content = base64.b64encode(path.read_bytes()).decode()
    return {"name": path.stem.replace("_", " ").replace("-", " "), "uri": f"data:{_MIME[path.suffix]};base64,{content}"}
