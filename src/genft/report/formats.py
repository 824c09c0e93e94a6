"""Boards as tables for the terminal, Markdown, CSV and JSON. The page is made in page.py."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from rich.console import Group
from rich.text import Text

from genft.report.boards import Board, Costs, Differences, Spread, Tested
from genft.report.command import command
from genft.report.terminal import count, duration, size, table
from genft.runs.protocols import PROTOCOLS
from genft.runs.spec import LIMITS
from genft.runs.store import Failure, Result


class Cell(NamedTuple):
    text: str = ""
    style: str = ""  # "bold" is the best of its row, "dim" stands beside


@dataclass(frozen=True)
class Sheet:
    """One table as text: the first column holds names, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


#: A board with the differences of its methods to one of them.
Made = tuple[Board, Differences]


def sheets(board: Board, differences: Differences) -> list[Sheet]:
    """Scores with ranks and published numbers, costs, and differences where there are two methods."""
    made = [_scores(board), _costs(board)]
    return [*made, _differences(board, differences)] if len(board.labels) > 1 else made


def heading(board: Board) -> str:
    """Model, suite, protocol and limits: what every table of the board is of."""
    parts = [board.title, f"protocol {board.protocol}"]
    return ", ".join([*parts, f"LIMITED to {_limits(board)}"] if any(board.limits) else parts)


def _limits(board: Board) -> str:
    names = ("training", "selecting", "evaluation")
    return " and ".join(f"{n:,} {name} examples" for n, name in zip(board.limits, names, strict=True) if n)


def _scores(board: Board) -> Sheet:
    metrics = {board.first(task).scores.metric for task in board.tasks}
    mixed = len(metrics) > 1
    sheet = Sheet(f"{heading(board)}: {'score' if mixed else metrics.pop()} × 100", ("task", *board.labels))
    for task in board.tasks:
        ranks, name = board.ranks(task), f"{task} ({board.first(task).scores.metric})" if mixed else task
        row = []
        for label in board.labels:
            score = board.score(task, label)
            few = score is not None and score.n < len(board.seeds)
            text = f"{_spread(score)} ({ranks[label]:g}{f', n={score.n}' if few else ''})" if score else "–"
            row.append(Cell(text, "bold" if ranks.get(label) == 1 else ""))
        sheet.rows.append((Cell(name), *row))
        _beside(sheet, [[n.value for n in board.published(task, label)[:1]] for label in board.labels], "  published")
    if board.common and len(board.tasks) > 1:
        _means(sheet, board)
    sheet.notes.extend(_score_notes(board))
    return sheet


def _means(sheet: Sheet, board: Board) -> None:
    for name, tasks in mean_rows(board):
        means = {label: board.mean(label, tasks) for label in board.complete}
        sheet.rows.append(_row(board, name, {label: m.mean for label, m in means.items()}, _texts(means)))
        printed = {label: [board.published(task, label)[:1] for task in tasks] for label in board.labels}
        of_all = [[fmean(n.value for (n,) in printed[x])] if all(printed[x]) else [] for x in board.labels]
        _beside(sheet, of_all, "  published, the same tasks")
    if groups := board.groups:
        over = {x: fmean(board.mean(x, tasks).mean for tasks in groups.values()) for x in board.complete}
        name = f"mean of the {len(groups)} group means"
        sheet.rows.append(_row(board, name, over, {x: f"{100 * m:.2f}" for x, m in over.items()}))
    ranks = {label: board.mean_rank(label) for label in board.complete}
    best_first = {label: -rank for label, rank in ranks.items()}
    sheet.rows.append(_row(board, "mean rank", best_first, {x: f"{rank:.2f}" for x, rank in ranks.items()}))


def _texts(means: Mapping[str, Spread]) -> dict[str, str]:
    return {label: _spread(mean) for label, mean in means.items()}


def _row(board: Board, name: str, values: Mapping[str, float], texts: Mapping[str, str]) -> tuple[Cell, ...]:
    """A row with the highest of its values in bold."""
    best = max(values.values())
    return Cell(name), *(Cell(texts.get(x, "–"), "bold" if values.get(x) == best else "") for x in board.labels)


def mean_rows(board: Board) -> list[tuple[str, tuple[str, ...]]]:
    """(name, tasks) of the plain means that a board has: of all common tasks, and of each group of them."""
    if not board.common:
        return []
    of = "" if board.common == board.tasks else f" of {len(board.tasks)}"
    whole = f"mean of {len(board.common)}{of} tasks"
    return [(whole, board.common), *((f"mean, {name} ({len(t)})", t) for name, t in board.groups.items())]


def _beside(sheet: Sheet, values: Sequence[Sequence[float]], name: str) -> None:
    """A dim row of published numbers, in percent, where there is one."""
    if any(values):
        sheet.rows.append((Cell(name, "dim"), *(Cell(f"{v[0]:.2f}" if v else "", "dim") for v in values)))


def _score_notes(board: Board) -> list[str]:
    seeds = ", ".join(map(str, board.seeds))
    notes = [f"mean ± standard deviation over {len(board.seeds)} seeds ({seeds}), rank in brackets"]
    if len(board.seeds) == 1:
        notes = [f"one seed ({seeds}), rank in brackets: nothing here says how another seed would do"]
    notes.append(protocol_note(board))
    if any(board.limits):
        notes.append(f"limited to {_limits(board)}: not comparable with runs on all data")
    if not board.common:
        notes.append("no task has every method: no means and no mean ranks; --methods chooses columns")
    elif board.common != board.tasks:
        notes.append(f"means and mean ranks are over the tasks that every method has: {', '.join(board.common)}")
    elif board.complete != board.labels:
        notes.append(f"means and mean ranks are of the methods that have every task: {', '.join(board.complete)}")
    notes += [*board.missing(), *board.mixed()]
    sources = {f"{n.source}, {n.backbone}" for task in board.tasks for label in board.labels
               for n in board.published(task, label)[:1]}  # fmt: skip
    if sources:
        notes.append(f"published: {'; '.join(sorted(sources))}, on all data; this model: {board.model}")
    return notes


def protocol_note(board: Board) -> str:
    known = PROTOCOLS.get(board.protocol)
    return f"protocol {board.protocol}" + (f": {known.text}" if known else "")


def _costs(board: Board) -> Sheet:
    columns = ("method", "adapter", "head", "s/step", "run", "memory", "epochs", "learning rate")
    sheet = Sheet(f"{heading(board)}: trained parameters, time and memory", columns)
    for label in board.labels:
        sheet.rows.append((Cell(label), *map(Cell, _cost_texts(board.costs(label)))))
    runs = [run for runs in board.runs.values() for run in runs]
    of = ", ".join(sorted({run.cost.peak_memory_of for run in runs}))
    tasks = "the tasks of the means" if board.complete == board.labels else "the tasks that a method has"
    sheet.notes.extend(
        [
            f"over {tasks}: parameters are means, times are medians, memory is the highest peak of the {of}",
            f"on {'; '.join(sorted({run.provenance.device for run in runs}))}",
        ]
    )
    return sheet


def _cost_texts(costs: Costs) -> list[str]:
    rates, epochs = ([f"{v:g}" for v in sorted(values)] for values in (costs.learning_rates, costs.epochs))
    return [
        count(round(costs.adapter_parameters)),
        count(round(costs.head_parameters)),
        f"{costs.seconds_per_step:.3f}",
        duration(costs.seconds),
        size(costs.peak_memory_bytes),
        *("–".join(dict.fromkeys((v[0], v[-1]))) if v else "" for v in (epochs, rates)),
    ]


def _differences(board: Board, differences: Differences) -> Sheet:
    others = [label for label in board.labels if label != differences.reference]
    sheet = Sheet(f"{heading(board)}: difference to {differences.reference} × 100", ("task", *others))
    for task in board.tasks:
        found = [differences.tasks.get((task, label)) for label in others]
        if any(found):
            sheet.rows.append((Cell(task), *map(_tested, found)))
    if differences.means and len(board.tasks) > 1:
        name = mean_rows(board)[0][0]
        sheet.rows.append((Cell(name), *(_tested(differences.means.get(label)) for label in others)))
    sheet.notes.extend(
        [
            "▲ ▼: a real difference, p < 0.05 after Holm's correction over all differences of the table (of the mean: "
            "over the methods); the 95 % intervals are not corrected",
            "paired bootstrap: 10,000 draws of examples"
            + (" and seeds" if len(board.seeds) > 1 else "; one seed, so nothing is said about other seeds"),
        ]
    )
    return sheet


def _tested(tested: Tested | None) -> Cell:
    if tested is None:
        return Cell("–")
    d = tested.difference
    mark = ("▲" if d.value > 0 else "▼") + " " if tested.real else ""
    text = f"{mark}{100 * d.value:+.2f} [{100 * d.low:+.2f},{100 * d.high:+.2f}]".replace("-", "−")
    return Cell(text, "bold" if tested.real else "")


def _spread(score: Spread) -> str:
    deviation = "" if math.isnan(score.deviation) else f" ± {100 * score.deviation:.2f}"
    return f"{100 * score.mean:.2f}{deviation}"


def failure_notes(failures: Sequence[Failure]) -> list[str]:
    """A sentence per run that ended with an error."""
    return [f"failed: {f.task} {f.method} seed {f.seed}: {f.error.splitlines()[0]}" for f in failures]


def as_rich(made: Sequence[Made], notes: Sequence[str]) -> Group:
    """For the terminal."""
    parts: list[Any] = []
    for sheet in (sheet for one in made for sheet in sheets(*one)):
        shown = table(*sheet.columns, right=sheet.columns[1:])
        for column in shown.columns:
            column.no_wrap = False
        for row in sheet.rows:
            shown.add_row(*(Text(cell.text, style=cell.style) for cell in row))
        parts += [Text(sheet.title, style="bold"), shown, *(Text(note, style="dim") for note in sheet.notes), Text()]
    return Group(*parts, *(Text(note, style="red") for note in notes))


def as_markdown(made: Sequence[Made], notes: Sequence[str]) -> str:
    """Each table under a heading, with its notes as a list."""
    lines = []
    for sheet in (sheet for one in made for sheet in sheets(*one)):
        lines += [f"### {sheet.title}", "", _md_row(sheet.columns), "| --- |" + " ---: |" * (len(sheet.columns) - 1)]
        lines += [_md_row([_md_cell(cell) for cell in row]) for row in sheet.rows]
        lines += ["", *(f"- {note}" for note in sheet.notes), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def _md_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def _md_cell(cell: Cell) -> str:
    text = cell.text.strip()
    marks = {"bold": "**", "dim": "*"}.get(cell.style, "")
    return f"{marks}{text}{marks}" if text else ""


def as_csv(made: Sequence[Made], _: Sequence[str]) -> str:
    """A row per table, task and method; scores and differences as fractions of 1, as they are stored."""
    text = io.StringIO()
    rows = [row for one in made for row in _csv_rows(*one)]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_rows(board: Board, differences: Differences) -> Iterator[dict[str, Any]]:
    for (task, label), runs in board.runs.items():
        score, first = board.score(task, label), runs[0]
        assert score is not None
        printed = board.published(task, label)[:1]
        tested = differences.tasks.get((task, label))
        of = tested.difference if tested else None
        yield {
            "model": board.model,
            "suite": board.suite,
            "group": first.spec.get("task", {}).get("group", ""),
            "protocol": board.protocol,
            **dict(zip(LIMITS, board.limits, strict=True)),
            "epochs": first.spec.get("training", {}).get("epochs"),
            "task": task,
            "metric": first.scores.metric,
            "method": label,
            "mean": score.mean,
            "deviation": None if math.isnan(score.deviation) else score.deviation,
            "n": score.n,
            "seeds": " ".join(str(run.seed) for run in runs),
            "rank": board.ranks(task)[label],
            "adapter_parameters": first.counts.adapter,
            "head_parameters": first.counts.head,
            "seconds_per_step": fmean(run.cost.seconds_per_step for run in runs),
            "peak_memory_bytes": max(run.cost.peak_memory_bytes for run in runs),
            "published_percent": printed[0].value if printed else None,
            "published_backbone": printed[0].backbone if printed else None,
            "published_source": printed[0].source if printed else None,
            "against": differences.reference,
            "difference": of.value if of else None,
            "low": of.low if of else None,
            "high": of.high if of else None,
            "p": of.p if of else None,
            "p_holm": tested.p if tested else None,
            "keys": " ".join(run.key for run in runs),
        }


def as_json(made: Sequence[Made], notes: Sequence[str]) -> str:
    return json.dumps({"boards": [as_dict(*one) for one in made], "notes": notes}, indent=1, ensure_ascii=False) + "\n"


def as_dict(board: Board, differences: Differences) -> dict[str, Any]:
    """Everything of a board, with its runs but without their predictions."""
    return _finite(
        {
            "title": board.title,
            "heading": heading(board),
            "model": board.model,
            "suite": board.suite,
            "protocol": {"name": board.protocol, "note": protocol_note(board)},
            "limits": {**dict(zip(LIMITS, board.limits, strict=True)), "text": _limits(board)},
            "seeds": board.seeds,
            "tasks": [
                {
                    "name": task,
                    "group": board.first(task).spec.get("task", {}).get("group", ""),
                    "metric": board.first(task).scores.metric,
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
                    "runs": [_run(run) for run in runs],
                }
                for (task, label), runs in board.runs.items()
                if (score := board.score(task, label))
            ],
            "differences": _differences_dict(differences),
            "notes": _score_notes(board),
        }
    )


def _differences_dict(differences: Differences) -> dict[str, Any]:
    def one(tested: Tested) -> dict[str, Any]:
        return {**vars(tested.difference), "p_holm": tested.p, "real": tested.real}

    return {
        "reference": differences.reference,
        "tasks": [{"task": task, "label": label, **one(t)} for (task, label), t in differences.tasks.items()],
        "means": {label: one(t) for label, t in differences.means.items()},
    }


def _run(run: Result) -> dict[str, Any]:
    content = run.model_dump(mode="json", exclude={"predictions", "targets"})
    return {**content, "limited": run.limited, "command": command(run)}


def _finite(value: Any) -> Any:
    """``value`` with NaN and infinities as null, which is all that JSON has for them."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
