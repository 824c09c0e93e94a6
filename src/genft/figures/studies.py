"""The figures of `genft study`, one function per study."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genft.families.metrics import METRICS
from genft.figures.heatmap import SIZED, numbers_in_cells, plain
from genft.figures.style import SERIES, Drawn, colour_bar, panels, save, style
from genft.sweeps.studies import Measured

#: (colour, hatch): distinguishable in greyscale, too.
_BARS = (("#0072B2", ""), ("#E69F00", "//"), ("#56B4E9", "\\\\"), ("#D55E00", "xx"), ("#CCCCCC", ".."))


def _tasks(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    by_task: dict[str, list[Measured]] = {}
    for m in measured:
        by_task.setdefault(m.task, []).append(m)
    return by_task


def _error(m: Measured) -> float:
    return 0.0 if math.isnan(m.deviation) else m.deviation


def bars(measured: Sequence[Measured]) -> Drawn:
    """Table 4 as a figure: a group of bars per task, a bar per variant, a whisker of one standard deviation."""
    tasks = _tasks(measured)
    names = list(dict.fromkeys(m.variant.name for m in measured))
    figure, (axes,) = panels(1, 1, (min(7.0, 2.2 + 1.1 * len(tasks)), 2.8))
    width = 0.84 / len(names)
    for n, (name, (colour, hatch)) in enumerate(zip(names, _BARS, strict=False)):
        of_variant = [next(m for m in group if m.variant.name == name) for group in tasks.values()]
        axes.bar(
            np.arange(len(tasks)) + (n - (len(names) - 1) / 2) * width,
            [m.mean for m in of_variant],
            width * 0.92,
            yerr=[_error(m) for m in of_variant] if any(map(_error, of_variant)) else None,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            error_kw={"linewidth": 0.8, "capsize": 2},
            label=name,
        )
    means = [m.mean for m in measured if not math.isnan(m.mean)]
    if means:  # differences are small, so the axis need not begin at 0
        low = min(m.mean - _error(m) for m in measured if not math.isnan(m.mean))
        axes.set_ylim(max(0.0, low - 0.5 * (max(means) - low) - 0.01))
    axes.set_xticks(range(len(tasks)), list(tasks))
    axes.set_ylabel(" / ".join(dict.fromkeys(m.metric for m in measured)))
    axes.grid(axis="x", visible=False)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=min(len(names), 3), frameon=False)
    yield "", figure


def squares(measured: Sequence[Measured]) -> Drawn:
    """Figure 3: a heat map per task, w0_ratio across, scaling up; a black square around the best."""
    for task, group in _tasks(measured).items():
        x_name, y_name = group[0].variant.place
        xs, ys = (sorted({m.variant.place[name] for m in group}) for name in (x_name, y_name))
        table = np.full((len(ys), len(xs)), math.nan)
        for m in group:
            table[ys.index(m.variant.place[y_name]), xs.index(m.variant.place[x_name])] = m.mean
        if not np.isnan(table).all():
            yield f"-{task}", _square(table, (x_name, xs), (y_name, ys), task, group[0].metric)


def _square(table: Any, x: tuple[str, Sequence[float]], y: tuple[str, Sequence[float]], task: str, metric: str) -> Any:
    import matplotlib.pyplot as plt

    rows, columns = table.shape
    figure, (axes,) = panels(1, 1, (1.3 + 0.55 * columns, 1.0 + 0.4 * rows))
    plain(axes)
    axes.set_facecolor("#DDDDDD")
    scale: Any = plt.Normalize(np.nanmin(table), np.nanmax(table))
    image = axes.imshow(table, cmap=SIZED, norm=scale, origin="lower", aspect="auto")
    numbers_in_cells(axes, table, scale, "{:.3f}")
    best = np.nanargmax(table) if METRICS[metric].higher_is_better else np.nanargmin(table)
    r, c = np.unravel_index(best, table.shape)
    axes.add_patch(plt.Rectangle((c - 0.5, r - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2, clip_on=False))
    axes.set_xticks(range(columns), [f"{value:g}" for value in x[1]])
    axes.set_yticks(range(rows), [f"{value:g}" for value in y[1]])
    axes.set(xlabel=x[0], ylabel=y[0], title=task)
    colour_bar(figure, image, axes, metric)
    return figure


def lines(measured: Sequence[Measured]) -> Drawn:
    """Figure 4: a panel per task, the score against the one varied setting, with the best value labelled."""
    tasks = _tasks(measured)
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = panels(len(tasks), columns, (max(3.2, 2.4 * columns), 1.9 * rows + 0.3))
    for axis, (task, group) in zip(axes, tasks.items(), strict=True):
        _line(axis, group, SERIES[0])
        choose = max if METRICS[group[0].metric].higher_is_better else min
        best = choose((m for m in group if not math.isnan(m.mean)), key=lambda m: m.mean, default=None)
        if best is not None:
            ((_, x),) = best.variant.place.items()
            axis.annotate(
                f"{x:g}",
                (x, best.mean + _error(best)),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
            )
            axis.margins(y=0.25)
        axis.set(title=task, ylabel=group[0].metric)
    figure.supxlabel(next(iter(measured[0].variant.place)), fontsize=9)
    yield "", figure


def _line(axis: Any, group: Sequence[Measured], series: tuple[str, str, str], label: str | None = None) -> None:
    colour, marker, dashes = series
    points = sorted(((x, m) for m in group for x in m.variant.place.values()), key=lambda point: point[0])
    axis.errorbar(
        [x for x, _ in points],
        [m.mean for _, m in points],
        yerr=[_error(m) for _, m in points],
        color=colour,
        marker=marker,
        linestyle=dashes,
        linewidth=1.3,
        elinewidth=0.8,
        capsize=2,
        label=label,
    )


def against_rank(measured: Sequence[Measured]) -> Drawn:
    """Figure 2, with the score next to the parameters: GenFT and LoRA against rank, for each task."""
    for task, group in _tasks(measured).items():
        figure, (left, right) = panels(2, 2, (6.4, 2.6))
        names = dict.fromkeys(m.variant.name for m in group)
        for name, series in zip(names, SERIES, strict=False):
            of_variant = [m for m in group if m.variant.name == name]
            counted = sorted((m.variant.place["rank"], m.parameters) for m in of_variant if m.parameters)
            colour, marker, dashes = series
            left.plot([x for x, _ in counted], [n for _, n in counted], color=colour, marker=marker, linestyle=dashes)
            _line(right, of_variant, series, name)
        ranks = sorted({m.variant.place["rank"] for m in group})
        for axis in (left, right):
            axis.set_xscale("log", base=2)
            axis.set_xticks(ranks, [f"{rank:g}" for rank in ranks])
            axis.minorticks_off()
            axis.set_xlabel("rank (LoRA r, GenFT a + b)")
        left.set(ylabel="trained parameters", yscale="log")
        right.set_ylabel(group[0].metric)
        right.legend(frameon=False)
        figure.suptitle(task, fontsize=9)
        yield f"-{task}", figure


STUDY_FIGURES: dict[str, Callable[[Sequence[Measured]], Drawn]] = {
    "ablation": bars,
    "ratio-scaling": squares,
    "shared-dim": lines,
    "rank": against_rank,
}


def draw_study(name: str, measured: Sequence[Measured], folder: Path, format: str) -> list[Path]:
    """Write the figures of the study ``name``; returns their files."""
    paths = []
    with style():
        for ending, figure in STUDY_FIGURES[name](measured):
            paths.append(folder / f"{name}{ending}.{format}")
            save(figure, paths[-1])
    return paths
