"""A board as text tables: scores with ranks and published numbers, costs, and differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from genft.families.metrics import Metric
from genft.report.boards import Board, Costs, Spread
from genft.report.doubts import doubts
from genft.report.significance import DRAWS, Differences, Tested
from genft.report.style import count, duration, size
from genft.runs.protocols import PROTOCOLS


class Cell(NamedTuple):
    text: str = ""
    style: str = ""  # "bold" marks the best of its row, "dim" secondary text


@dataclass(frozen=True)
class ReportTable:
    """One table as text: the first column holds names, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def tables(board: Board, differences: Differences) -> list[ReportTable]:
    """Scores, costs, and, if there are two methods, differences."""
    made = [_scores(board), _costs(board)]
    return [*made, _differences(board, differences)] if len(board.labels) > 1 else made


def heading(board: Board) -> str:
    """Model, suite, protocol and limits, which all tables of a board share."""
    parts = [board.title, f"protocol {board.protocol}"]
    return ", ".join([*parts, f"LIMITED to {limits_text(board)}"] if any(board.limits) else parts)


def limits_text(board: Board) -> str:
    names = ("training", "selecting", "evaluation")
    return " and ".join(f"{n:,} {name} examples" for n, name in zip(board.limits, names, strict=True) if n)


def metric_title(metrics: Sequence[Metric]) -> str:
    """The unit of a table's numbers: ``"matthews × 100"``, or ``"score"`` if the rows have different metrics."""
    names = {metric.name for metric in metrics}
    return ("score" if len(names) > 1 else names.pop()) + _unit(metrics)


def _unit(metrics: Sequence[Metric]) -> str:
    units = {metric.unit for metric in metrics}
    return "" if len(units) > 1 else units.pop()


# ---------------------------------------------------------------- scores


def _scores(board: Board) -> ReportTable:
    metrics = [board.metric(task) for task in board.tasks]
    table = ReportTable(f"{heading(board)}: {metric_title(metrics)}", ("task", *board.labels))
    several = len(set(metrics)) > 1
    for task, metric in zip(board.tasks, metrics, strict=True):
        name = f"{task} ({metric.name})" if several else task
        table.rows.append((Cell(name), *(_score(board, task, label) for label in board.labels)))
        printed = [[n.value for n in board.published(task, label)[:1]] for label in board.labels]
        _published_row(table, printed, metric, "  published")
    if board.common and len(board.tasks) > 1:
        _means(table, board)
    table.notes.extend(score_notes(board))
    return table


def _score(board: Board, task: str, label: str) -> Cell:
    """The mean over seeds, with its rank and any peculiarity in brackets."""
    score = board.score(task, label)
    if score is None:
        return Cell("–")
    rank = board.ranks(task).get(label)
    remarks = [f"{rank:g}"] if rank else []
    remarks += [f"n={score.n}"] if score.n < len(board.seeds) else []
    if constant := sum(run.key in board.constant for run in board.runs[task, label]):
        remarks.append("constant" if constant == score.n else f"{constant} constant")
    text = _spread(score, board.metric(task))
    return Cell(f"{text} ({', '.join(remarks)})" if remarks else text, "bold" if rank == 1 else "")


def _means(table: ReportTable, board: Board) -> None:
    if metric := board.mean_metric:
        for name, tasks in mean_rows(board):
            means = {label: board.mean(label, tasks) for label in board.complete}
            texts = {label: _spread(mean, metric) for label, mean in means.items()}
            table.rows.append(_row(board, name, {x: m.mean for x, m in means.items()}, texts, metric.higher_is_better))
            printed = {label: [board.published(task, label)[:1] for task in tasks] for label in board.labels}
            published = [[fmean(n.value for (n,) in printed[x])] if all(printed[x]) else [] for x in board.labels]
            _published_row(table, published, metric, "  published, the same tasks")
        if groups := board.groups:
            over = {x: fmean(board.mean(x, tasks).mean for tasks in groups.values()) for x in board.complete}
            texts = {label: metric.shown(mean) for label, mean in over.items()}
            table.rows.append(
                _row(board, f"mean of the {len(groups)} group means", over, texts, metric.higher_is_better)
            )
    ranks = {label: board.mean_rank(label) for label in board.complete}
    texts = {label: f"{rank:.2f}" for label, rank in ranks.items()}
    table.rows.append(_row(board, "mean rank", ranks, texts, higher_is_better=False))


def _row(
    board: Board, name: str, values: Mapping[str, float], texts: Mapping[str, str], higher_is_better: bool
) -> tuple[Cell, ...]:
    """A row with its best value in bold."""
    best = (max if higher_is_better else min)(values.values())
    return Cell(name), *(Cell(texts.get(x, "–"), "bold" if values.get(x) == best else "") for x in board.labels)


def mean_rows(board: Board) -> list[tuple[str, tuple[str, ...]]]:
    """(name, tasks) of a board's plain means: over all common tasks, and over each group of them."""
    if not board.common or board.mean_metric is None:
        return []
    of = "" if board.common == board.tasks else f" of {len(board.tasks)}"
    whole = f"mean of {len(board.common)}{of} tasks"
    return [(whole, board.common), *((f"mean, {name} ({len(t)})", t) for name, t in board.groups.items())]


def _published_row(table: ReportTable, values: Sequence[Sequence[float]], metric: Metric, name: str) -> None:
    """Add a dim row of published numbers in the metric's format, if there are any."""
    if any(values):
        cells = [Cell(f"{v[0]:.{metric.digits}f}" if v else "", "dim") for v in values]
        table.rows.append((Cell(name, "dim"), *cells))


def score_notes(board: Board) -> list[str]:
    """Notes that are needed to read the scores."""
    seeds = ", ".join(map(str, board.seeds))
    notes = [f"mean ± standard deviation over {len(board.seeds)} seeds ({seeds}), rank in brackets"]
    if len(board.seeds) == 1:
        notes = [f"one seed ({seeds}), rank in brackets: this does not show how another seed would do"]
    notes.append(protocol_note(board))
    if lower := sorted({m.name for m in map(board.metric, board.tasks) if not m.higher_is_better}):
        notes.append(f"lower is better: {', '.join(lower)}")
    if any(board.limits):
        notes.append(f"limited to {limits_text(board)}: not comparable with runs on all data")
    if not board.common:
        notes.append("no task has a score for every method: no means and no mean ranks; --methods chooses columns")
    elif board.common != board.tasks:
        notes.append(f"means and mean ranks are over the tasks that every method has: {', '.join(board.common)}")
    elif board.complete != board.labels:
        notes.append(f"means and mean ranks are for the methods that have every task: {', '.join(board.complete)}")
    if board.common and board.mean_metric is None:
        notes.append("no means: the tasks are scored on different scales; mean ranks compare the methods")
    sources = {f"{n.source}, {n.backbone}" for task in board.tasks for label in board.labels
               for n in board.published(task, label)[:1]}  # fmt: skip
    if sources:
        notes.append(f"published: {'; '.join(sorted(sources))}, on all data; this model: {board.model}")
    return notes + doubts(board)


def protocol_note(board: Board) -> str:
    known = PROTOCOLS.get(board.protocol)
    return f"protocol {board.protocol}" + (f": {known.text}" if known else "")


def _spread(score: Spread, metric: Metric) -> str:
    if math.isnan(score.mean):
        return "not finite"
    deviation = "" if math.isnan(score.deviation) else f" ± {metric.shown(score.deviation)}"
    return f"{metric.shown(score.mean)}{deviation}"


# ---------------------------------------------------------------- costs


def _costs(board: Board) -> ReportTable:
    columns = ("method", "adapter", "head", "s/step", "run", "memory", "epochs", "learning rate")
    table = ReportTable(f"{heading(board)}: trained parameters, time and memory", columns)
    for label in board.labels:
        table.rows.append((Cell(label), *map(Cell, _cost_texts(board.costs(label)))))
    runs = [run for runs in board.runs.values() for run in runs]
    of = ", ".join(sorted({run.cost.peak_memory_of for run in runs}))
    tasks = "the tasks of the means" if board.complete == board.labels else "the tasks that a method has"
    table.notes.extend(
        [
            f"over {tasks}: parameters are means, times are medians, memory is the highest peak of the {of}",
            f"on {'; '.join(sorted({run.provenance.device for run in runs}))}",
        ]
    )
    return table


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


# ---------------------------------------------------------------- differences


def _differences(board: Board, differences: Differences) -> ReportTable:
    others = [label for label in board.labels if label != differences.reference]
    unit = _unit([board.metric(task) for task in board.tasks])
    table = ReportTable(f"{heading(board)}: difference from {differences.reference}{unit}", ("task", *others))
    for task in board.tasks:
        tested = [differences.tasks.get((task, label)) for label in others]
        if any(tested):
            table.rows.append((Cell(task), *(_tested(t, board.metric(task)) for t in tested)))
    if differences.means and board.mean_metric and len(board.tasks) > 1:
        name = mean_rows(board)[0][0]
        means = (_tested(differences.means.get(label), board.mean_metric) for label in others)
        table.rows.append((Cell(name), *means))
    table.notes.extend(
        [
            "▲ better, ▼ worse: p < 0.05 after Holm's correction over all differences of the table (of the mean: over "
            "the methods); the 95 % intervals are not corrected",
            f"paired bootstrap: {DRAWS:,} draws of examples"
            + (" and seeds" if len(board.seeds) > 1 else "; one seed, so other seeds are not covered"),
            *differences.notes,
        ]
    )
    return table


def _tested(tested: Tested | None, metric: Metric) -> Cell:
    if tested is None:
        return Cell("–")
    d = tested.difference
    mark = ("▲" if metric.better(d.value, 0) else "▼") + " " if tested.real else ""
    value, low, high = (metric.shown(v, "+") for v in (d.value, d.low, d.high))
    return Cell(f"{mark}{value} [{low},{high}]".replace("-", "−"), "bold" if tested.real else "")
