"""The figures of the studies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genft.figures.style import SERIES

if TYPE_CHECKING:
    from genft.sweeps.studies import Measured

Drawn = Iterator[tuple[str, Any]]
#: Told apart in grey, too.
_BARS = (("#0072B2", ""), ("#E69F00", "//"), ("#56B4E9", "\\\\"), ("#D55E00", "xx"), ("#CCCCCC", ".."))


def _tasks(found: Sequence[Measured]) -> dict[str, list[Measured]]:
    by_task: dict[str, list[Measured]] = {}
    for m in found:
        by_task.setdefault(m.task, []).append(m)
    return by_task


def _error(m: Measured) -> float:
    return 0.0 if math.isnan(m.deviation) else m.deviation


def bars(found: Sequence[Measured]) -> Drawn:
    """Table 4 as a figure: a group of bars per task, a bar per variant, a whisker of one standard deviation."""
    import matplotlib.pyplot as plt

    tasks = _tasks(found)
    names = list(dict.fromkeys(m.variant.name for m in found))
    figure, axes = plt.subplots(figsize=(min(7.0, 2.2 + 1.1 * len(tasks)), 2.8), layout="constrained")
    width = 0.84 / len(names)
    for n, (name, (colour, hatch)) in enumerate(zip(names, _BARS, strict=False)):
        of_name = [next(m for m in group if m.variant.name == name) for group in tasks.values()]
        axes.bar(
            np.arange(len(tasks)) + (n - (len(names) - 1) / 2) * width,
            [m.mean for m in of_name],
            width * 0.92,
            yerr=[_error(m) for m in of_name] if any(map(_error, of_name)) else None,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            error_kw={"linewidth": 0.8, "capsize": 2},
            label=name,
        )
    means = [m.mean for m in found if not math.isnan(m.mean)]
    if means:  # differences are small, so the axis need not begin at 0
        low = min(m.mean - _error(m) for m in found if not math.isnan(m.mean))
        axes.set_ylim(max(0.0, low - 0.5 * (max(means) - low) - 0.01))
    axes.set_xticks(range(len(tasks)), list(tasks))
    axes.set_ylabel(" / ".join(dict.fromkeys(m.metric for m in found)))
    axes.grid(axis="x", visible=False)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=min(len(names), 3), frameon=False)
    yield "", figure


def squares(found: Sequence[Measured]) -> Drawn:
    """Figure 3: a heat map per task, w0_ratio across, scaling up; a black square around the best."""
    import matplotlib.pyplot as plt

    for task, group in _tasks(found).items():
        x_name, y_name = group[0].variant.place
        xs, ys = (sorted({m.variant.place[name] for m in group}) for name in (x_name, y_name))
        table = np.full((len(ys), len(xs)), math.nan)
        for m in group:
            table[ys.index(m.variant.place[y_name]), xs.index(m.variant.place[x_name])] = m.mean
        if np.isnan(table).all():
            continue
        figure, axes = plt.subplots(figsize=(1.3 + 0.55 * len(xs), 1.0 + 0.4 * len(ys)), layout="constrained")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_facecolor("#DDDDDD")
        scale: Any = plt.Normalize(np.nanmin(table), np.nanmax(table))
        image = axes.imshow(table, cmap="cividis", norm=scale, origin="lower", aspect="auto")
        for (r, c), value in np.ndenumerate(table):
            if not math.isnan(value):
                colour = "white" if float(scale(value)) < 0.5 else "black"
                axes.text(c, r, f"{value:.3f}", ha="center", va="center", size=7, color=colour)
        r, c = np.unravel_index(np.nanargmax(table), table.shape)
        axes.add_patch(
            plt.Rectangle((c - 0.5, r - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2, clip_on=False)
        )
        axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        axes.set(xlabel=x_name, ylabel=y_name, title=task)
        bar = figure.colorbar(image, ax=axes, aspect=25)
        bar.outline.set_visible(False)
        bar.set_label(group[0].metric, size=8)
        bar.ax.tick_params(labelsize=7)
        yield f"-{task}", figure


def lines(found: Sequence[Measured]) -> Drawn:
    """Figure 4: a panel per task, the score against the one thing that is varied, the best value named."""
    import matplotlib.pyplot as plt

    tasks = _tasks(found)
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(3.2, 2.4 * columns), 1.9 * rows + 0.3), squeeze=False, layout="constrained"
    )
    for axis, (task, group) in zip(axes.flat, tasks.items(), strict=False):
        _line(axis, group, SERIES[0])
        best = max((m for m in group if not math.isnan(m.mean)), key=lambda m: m.mean, default=None)
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
    for axis in axes.flat[len(tasks) :]:
        axis.remove()
    figure.supxlabel(next(iter(found[0].variant.place)), fontsize=9)
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


def against_rank(found: Sequence[Measured]) -> Drawn:
    """Figure 2, and beside the parameters the score: GenFT and LoRA against the rank, per task."""
    import matplotlib.pyplot as plt

    for task, group in _tasks(found).items():
        figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained")
        names = dict.fromkeys(m.variant.name for m in group)
        for name, series in zip(names, SERIES, strict=False):
            of_name = [m for m in group if m.variant.name == name]
            counted = sorted((m.variant.place["rank"], m.parameters) for m in of_name if m.parameters)
            colour, marker, dashes = series
            left.plot([x for x, _ in counted], [n for _, n in counted], color=colour, marker=marker, linestyle=dashes)
            _line(right, of_name, series, name)
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
