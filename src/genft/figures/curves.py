"""Curves: profiles of rows and columns, and singular values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from genft.figures.maps import WIDTH
from genft.figures.style import SERIES
from genft.figures.updates import Place, Subject

#: Singular values are drawn down to this part of the largest one.
SMALLEST_SHOWN = 1e-4

Drawn = Iterator[tuple[str, Any]]


def profiles(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """Per target, one figure for rows and one for columns: a row of panels per layer, mean and variance of each
    adapter side by side on one scale."""
    import matplotlib.pyplot as plt

    for target in targets:
        for lines, across in (("rows", 1), ("columns", 0)):
            places = [p for n in layers if all((p := Place(target, n)) in s.updates for s in subjects)]
            columns = 2 * len(subjects)
            figure, axes = plt.subplots(
                len(places),
                columns,
                figsize=(WIDTH, 1.15 * len(places) + 0.6),
                squeeze=False,
                sharex=True,
                layout="constrained",
            )
            for r, place in enumerate(places):
                for s, (subject, (colour, _, _)) in enumerate(zip(subjects, SERIES, strict=False)):
                    delta = subject.updates[place].delta
                    for q, values in enumerate((delta.mean(dim=across), delta.var(dim=across))):
                        axes[r, q * len(subjects) + s].plot(values.numpy(), color=colour, linewidth=0.5)
                axes[r, 0].set_ylabel(f"layer {place.layer}")
            for q, name in enumerate(("mean", "variance")):
                group = axes[:, q * len(subjects) : (q + 1) * len(subjects)]
                for row in group:
                    _share_y(row)
                for axis, subject in zip(group[0], subjects, strict=True):
                    axis.set_title(f"{name}, {subject.label}", y=1.0, pad=12)
            figure.supxlabel(f"{lines.removesuffix('s')} of ΔW of {target}", fontsize=9)
            yield f"-{lines}-{target}", figure


def _share_y(axes: Any) -> None:
    """One scale for panels that stand side by side, with its numbers at the first."""
    low, high = (f(limit for axis in axes for limit in axis.get_ylim()) for f in (min, max))
    for n, axis in enumerate(axes):
        axis.set_ylim(low, high)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axis.yaxis.get_offset_text().set(size=7, visible=n == 0)
        axis.tick_params(labelsize=7, labelleft=n == 0)


def spectra(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """Per adapter and target the singular values of ΔW, largest first, both axes logarithmic: a line per layer."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    columns = len(targets) if len(targets) <= 3 else 3
    each = -(-len(targets) // columns)
    width = min(WIDTH, 1.4 + 2.4 * columns)
    figure, axes = plt.subplots(
        each * len(subjects),
        columns,
        figsize=(width, 1.75 * each * len(subjects) + 0.5),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    # the light end of the map would not be seen on white
    colours = mpl.colors.ListedColormap(mpl.colormaps["viridis"].resampled(256)(range(225)))
    scale = mpl.colors.Normalize(min(layers), max(max(layers), min(layers) + 1))
    for s, subject in enumerate(subjects):
        panels = axes[s * each : (s + 1) * each].flat
        for axis, target in zip(panels, targets, strict=False):
            for layer in layers:
                update = subject.updates.get(Place(target, layer))
                if update is not None:
                    values = update.spectrum
                    axis.plot(range(1, len(values) + 1), values.numpy(), color=colours(scale(layer)), linewidth=1)
            axis.set(xscale="log", yscale="log", title=f"{subject.label}: {target}" if len(subjects) > 1 else target)
        for axis in list(panels)[len(targets) :]:
            axis.remove()
    figure.supxlabel("singular value of ΔW, largest first", fontsize=9)
    figure.supylabel("size", fontsize=9)
    largest = max(axis.get_ylim()[1] for axis in axes.flat)
    axes[0, 0].set_ylim(bottom=max(axes[0, 0].get_ylim()[0], SMALLEST_SHOWN * largest))
    for axis in axes[-1]:
        axis.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:.0f}"))
    bar = figure.colorbar(mpl.cm.ScalarMappable(scale, colours), ax=axes, shrink=0.9, aspect=30, pad=0.02)
    bar.ax.yaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    bar.set_label("layer", size=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    yield "", figure
