"""Curves: profiles of rows and columns, and singular values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genft.figures.positions import Position
from genft.figures.style import SERIES, WIDTH, Drawn, colour_bar, panels
from genft.figures.updates import Subject

#: Singular values are drawn down to this fraction of the largest one.
SMALLEST_SHOWN = 1e-4


def profiles(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """For each target, one figure for rows and one for columns: a row of panels per layer, with mean and variance of
    each adapter side by side on one scale."""
    for target in targets:
        positions = [p for n in layers if all((p := Position(target, n)) in s.updates for s in subjects)]
        for name, across in (("row", 1), ("column", 0)):
            yield f"-{name}s-{target}", _profiles(subjects, positions, across, f"{name} of ΔW of {target}")


def _profiles(subjects: Sequence[Subject], positions: Sequence[Position], across: int, label: str) -> Any:
    import matplotlib.pyplot as plt

    n = len(subjects)
    size = (WIDTH, 1.15 * len(positions) + 0.6)
    figure, axes = plt.subplots(len(positions), 2 * n, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for row, position in zip(axes, positions, strict=True):
        for s, (subject, (colour, _, _)) in enumerate(zip(subjects, SERIES, strict=False)):
            delta = subject.updates[position].delta
            row[s].plot(delta.mean(dim=across).numpy(), color=colour, linewidth=0.5)
            row[n + s].plot(delta.var(dim=across).numpy(), color=colour, linewidth=0.5)
        _share_y(row[:n])
        _share_y(row[n:])
        row[0].set_ylabel(f"layer {position.layer}")
    for axis, title in zip(
        axes[0], (f"{statistic}, {s.label}" for statistic in ("mean", "variance") for s in subjects), strict=True
    ):
        axis.set_title(title, y=1.0, pad=12)
    figure.supxlabel(label, fontsize=9)
    return figure


def _share_y(axes: Any) -> None:
    """Give adjacent panels one scale, with tick labels on the first panel only."""
    low, high = (f(limit for axis in axes for limit in axis.get_ylim()) for f in (min, max))
    for n, axis in enumerate(axes):
        axis.set_ylim(low, high)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axis.yaxis.get_offset_text().set(size=7, visible=n == 0)
        axis.tick_params(labelsize=7, labelleft=n == 0)


def spectra(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """For each adapter and target, the singular values of ΔW in descending order, on log-log axes: a line per layer."""
    import matplotlib as mpl

    columns = min(3, len(targets))
    n = len(subjects) * len(targets)
    size = (min(WIDTH, 1.4 + 2.4 * columns), 1.75 * -(-n // columns) + 0.5)
    figure, axes = panels(n, columns, size, shared=True)
    # the light end of the map would not be visible on white
    colours = mpl.colors.ListedColormap(mpl.colormaps["viridis"].resampled(256)(range(225)))
    scale = mpl.colors.Normalize(min(layers), max(max(layers), min(layers) + 1))
    for axis, (subject, target) in zip(axes, ((s, t) for s in subjects for t in targets), strict=True):
        for layer in layers:
            update = subject.updates.get(Position(target, layer))
            if update is not None:
                values = update.spectrum
                axis.plot(range(1, len(values) + 1), values.numpy(), color=colours(scale(layer)), linewidth=1)
        axis.set(xscale="log", yscale="log", title=f"{subject.label}: {target}" if len(subjects) > 1 else target)
    figure.supxlabel("index of the singular value of ΔW, largest first", fontsize=9)
    figure.supylabel("singular value", fontsize=9)
    largest = max(axis.get_ylim()[1] for axis in axes)
    axes[0].set_ylim(bottom=max(axes[0].get_ylim()[0], SMALLEST_SHOWN * largest))
    axes[0].xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))  # shared by all
    axes[0].xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes[0].xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:.0f}"))
    bar = colour_bar(figure, mpl.cm.ScalarMappable(scale, colours), axes, "layer")
    bar.locator = mpl.ticker.MaxNLocator(integer=True)
    bar.update_ticks()
    yield "", figure
