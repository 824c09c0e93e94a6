"""Heat maps: matrices, and numbers per layer and target.

Diverging colours (red and blue) where the sign matters, sequential ones elsewhere; both tell apart what people do who
do not see all colours, and what is compared has one scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genft.figures.updates import Place, Subject, WeightUpdate, vector_site

SIGNED, SIZED = "RdBu_r", "cividis"
WIDTH = 7.0
#: Cells of a heat map per side: more would not be seen in print, so neighbours are averaged.
CELLS = 400
#: The scale ends where all but this share of the cells (the largest) are inside.
BEYOND = 0.005
PANELS = 10

Drawn = Iterator[tuple[str, Any]]
Matrix = NDArray[np.float64]


def weights(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """Per target: a row per layer; W0, then W0 + ΔW of each adapter, on one scale; then each ΔW, on another."""
    import matplotlib.pyplot as plt

    n = len(subjects)
    for target in targets:
        places = [Place(target, layer) for layer in layers if all(Place(target, layer) in s.updates for s in subjects)]
        grid = [_weights_row([s.updates[place] for s in subjects]) for place in places]
        scales = [_reach([m for row in grid for m in row[part]]) for part in (slice(n + 1), slice(n + 1, None))]
        columns, rows = 2 * n + 1, len(grid)
        side = min(1.9, WIDTH / columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(side * columns, side * rows + 0.8), squeeze=False, layout="constrained"
        )
        engine: Any = figure.get_layout_engine()
        engine.set(wspace=0.03, hspace=0.03)
        titles = ["W0\npretrained", *(f"W0 + ΔW\n{s.label}" for s in subjects), *(f"ΔW\n{s.label}" for s in subjects)]
        for r, (row, place) in enumerate(zip(grid, places, strict=True)):
            o, i = subjects[0].updates[place].w0.shape
            for axis, matrix, title, c in zip(axes[r], row, titles, range(columns), strict=True):
                image = _image(axis, matrix, scales[c > n], extent=(0, i, o, 0))
                axis.set(xticks=[0, i], yticks=[0, o] if c == 0 else [], title=title if r == 0 else "")
                axis.tick_params(labelbottom=c == 0 and r == rows - 1, labelsize=7)
                if r == rows - 1 and c in (n, 2 * n):
                    group = axes[:, : n + 1] if c == n else axes[:, n + 1 :]
                    _colour_bar(
                        figure, image, group, "entries of weights" if c == n else "entries of updates", "bottom"
                    )
            axes[r, 0].set_ylabel(f"layer {place.layer}")
        cell = f" (a cell is the mean of {_step(o)} × {_step(i)} entries)" if max(o, i) > CELLS else ""
        figure.suptitle(f"{target}{cell}", fontsize=9)
        yield f"-{target}", figure


def _weights_row(updates: Sequence[WeightUpdate]) -> list[Matrix]:
    w0 = updates[0].w0
    return [_pooled(w0), *(_pooled(w0 + u.delta) for u in updates), *(_pooled(u.delta) for u in updates)]


def ranks(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    yield "", _by_layer(subjects, targets, layers, lambda u: u.effective_rank, "effective rank of ΔW", "{:.0f}")


def norms(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    yield "", _by_layer(subjects, targets, layers, lambda u: 100 * u.relative_norm, "‖ΔW‖ / ‖W0‖ in %", "{:#.3g}")


def _by_layer(
    subjects: Sequence[Subject],
    targets: list[str],
    layers: list[int],
    number: Callable[[WeightUpdate], float],
    label: str,
    form: str,
) -> Any:
    """One panel per adapter: a row per layer (the first at the bottom), a column per target, the number in its cell."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    tables = [_table(s, targets, layers, number) for s in subjects]
    # a root, because one large number would leave one colour for all the others
    low, high = (float(f(np.concatenate(tables, axis=None))) for f in (np.nanmin, np.nanmax))
    scale = mpl.colors.PowerNorm(0.5, low, high)
    width = min(WIDTH, 1.6 + len(subjects) * (0.4 + 0.62 * len(targets)))
    figure, axes = plt.subplots(
        1, len(subjects), figsize=(width, 1.3 + 0.24 * len(layers)), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, subject, table in zip(axes[0], subjects, tables, strict=True):
        image = axis.imshow(table, cmap=SIZED, norm=scale, aspect="auto", origin="lower")
        for (r, c), value in np.ndenumerate(table):
            if not math.isnan(value):
                colour = "white" if scale(value) < 0.5 else "black"
                axis.text(c, r, form.format(value), ha="center", va="center", size=7, color=colour)
        axis.set_title(subject.label)
        _names_below(axis, targets)
        _plain(axis)
    axes[0, 0].set_yticks(range(len(layers)), [str(n) for n in layers])
    axes[0, 0].set_ylabel("layer")
    _colour_bar(figure, image, axes, label)
    return figure


def _table(subject: Subject, targets: list[str], layers: list[int], number: Callable[[WeightUpdate], float]) -> Matrix:
    at = {p: number(u) for p, u in subject.updates.items() if p.target in targets and p.layer in layers}
    return np.array([[at.get(Place(t, n), math.nan) for t in targets] for n in layers])


def cosines(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """Per adapter and target, ⟨ΔW_m, ΔW_n⟩ / ‖ΔW_m‖ ‖ΔW_n‖ of any two layers, without the diagonal of ones."""
    panels = {(s.label, t): _cosines([s.updates.get(Place(t, n)) for n in layers]) for s in subjects for t in targets}
    figure = _panels(panels, "cosine", square=True)
    for axis in figure.axes[: len(panels)]:
        _ticks(axis.xaxis, layers)
        _ticks(axis.yaxis, layers)
    figure.supxlabel("layer", fontsize=9)
    figure.supylabel("layer", fontsize=9)
    yield "", figure


def _cosines(updates: Sequence[WeightUpdate | None]) -> Matrix:
    """(layers, layers); nan on the diagonal, and where there is no update of the same shape to compare with."""
    flat = [None if u is None else u.delta.flatten() / u.delta.norm() for u in updates]
    return np.array(
        [
            [math.nan if a is None or b is None or a is b or len(a) != len(b) else float(a @ b) for b in flat]
            for a in flat
        ]
    )


def shifts(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """VectorFit, per target: a row per layer, the change of every singular value from the largest to the smallest."""
    panels, longest = {}, 0
    for s in subjects:
        for target in targets:
            rows = [None if u is None else u.shift for u in (s.updates.get(Place(target, n)) for n in layers)]
            if any(row is not None for row in rows):
                k = max(len(row) for row in rows if row is not None)
                panels[s.label, target] = np.vstack([_pooled(_filled(row, k)) for row in rows])
                longest = max(longest, k)
    figure = _panels(panels, "change of σ", square=False, extent=(0, longest, len(layers) - 0.5, -0.5))
    for axis in figure.axes[: len(panels)]:
        _ticks(axis.yaxis, layers)
    figure.supxlabel("singular value of W0, largest first", fontsize=9)
    figure.supylabel("layer", fontsize=9)
    yield "", figure


def _filled(values: Tensor | None, n: int) -> Tensor:
    """``values`` as a row (1, n), nan where there are none."""
    row = torch.full((1, n), math.nan)
    if values is not None:
        row[0, : len(values)] = values
    return row


def _panels(
    panels: dict[tuple[str, str], Matrix],
    label: str,
    *,
    square: bool,
    extent: tuple[float, float, float, float] | None = None,
) -> Any:
    """A figure of one signed heat map for each (adapter, target), at most three in a row, all on one scale."""
    import matplotlib.pyplot as plt

    several = len({adapter for adapter, _ in panels}) > 1
    across = len({target for _, target in panels})
    columns = across if across <= 3 else 3
    rows = -(-len(panels) // columns)
    width = min(WIDTH, 1.2 + 2.4 * columns)
    height = (width - 1.2) / columns if square else 1.3
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, (height + 0.3) * rows + 0.4), squeeze=False, layout="constrained"
    )
    reach = _reach(list(panels.values()))
    for axis, ((adapter, target), matrix) in zip(axes.flat, panels.items(), strict=False):
        image = _image(axis, matrix, reach, extent)
        axis.set_title(f"{adapter}: {target}" if several else target)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    _colour_bar(figure, image, axes, label)
    return figure


def freezing(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """AVF: one panel per freezing (ten at most); a row per layer, a column per vector, a dot where it was frozen."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    for subject in subjects:
        assert subject.history is not None
        vectors, events = _vectors(subject), subject.history["events"]
        shown = [events[i] for i in np.unique(np.linspace(0, len(events) - 1, PANELS).round().astype(int))]
        numbers = sorted({layer for layer, _ in vectors.values()})
        names = list(dict.fromkeys(name for _, name in vectors.values()))
        columns = min(5 if len(names) <= 12 else 2, len(shown))
        rows = -(-len(shown) // columns)
        size = (max(1.2, 0.11 * len(names)) * columns + 0.7, (0.13 * len(numbers) + 0.25) * rows + 1.2)
        figure, axes = plt.subplots(
            rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
        )
        scale = mpl.colors.PowerNorm(0.5, 0, max(max(event["strength"]) for event in shown))
        for axis, event in zip(axes.flat, shown, strict=False):
            table = np.full((len(numbers), len(names)), math.nan)
            for name, strength in zip(subject.history["vectors"], event["strength"], strict=True):
                layer, column = vectors[name]
                table[numbers.index(layer), names.index(column)] = strength
            image = axis.imshow(table, cmap=SIZED, norm=scale, aspect="auto", origin="lower")
            cells = [(names.index(vectors[v][1]), numbers.index(vectors[v][0])) for v in event["frozen"]]
            axis.scatter(*zip(*cells, strict=True), s=9, color="white", edgecolors="black", linewidths=0.6)
            axis.set_title(f"after step {event['step']}")
            _names_below(axis, names)
            _ticks(axis.yaxis, numbers)
            _plain(axis)
        for axis in axes.flat[len(shown) :]:
            axis.remove()
        for axis in axes[:, 0]:
            axis.set_ylabel("layer")
        _colour_bar(figure, image, axes, "training strength")
        figure.supxlabel("vectors; a dot where one is frozen until the next freezing", fontsize=9)
        yield f"-{subject.label}" if len(subjects) > 1 else "", figure


def _vectors(subject: Subject) -> dict[str, tuple[int, str]]:
    """AVF's name of each vector → (layer, its name within the layer: "query σ", "query b")."""
    assert subject.history is not None
    found = {}
    for name in subject.history["vectors"]:
        site, symbol = vector_site(name)
        place = subject.places[site]
        found[name] = (place.layer, f"{place.target} {'σ' if symbol == 'sigma_bias' else 'b'}")
    return found


# ---------------------------------------------------------------- what the figures share


def _step(n: int) -> int:
    """How many neighbours of n are averaged into one cell."""
    return -(-n // CELLS)


def _pooled(matrix: Tensor) -> Matrix:
    """``matrix`` (o, i) with neighbours averaged, so that no side has more than CELLS cells."""
    found = matrix.detach().cpu().double().numpy()
    for axis in (0, 1):
        starts = np.arange(0, found.shape[axis], _step(found.shape[axis]))
        sizes = np.diff(np.append(starts, found.shape[axis]))
        found = np.add.reduceat(found, starts, axis=axis) / np.expand_dims(sizes, 1 - axis)
    return found


def _reach(matrices: Sequence[Matrix]) -> float:
    """Where a scale that is symmetric about 0 ends: a few outliers lie beyond, or all else would be pale."""
    sizes = np.abs(np.concatenate([m[~np.isnan(m)] for m in matrices]))
    return float(np.quantile(sizes, 1 - BEYOND)) or 1.0 if len(sizes) else 1.0


def _image(axis: Any, matrix: Matrix, reach: float, extent: tuple[float, float, float, float] | None = None) -> Any:
    _plain(axis)
    image = axis.imshow(
        matrix, cmap=SIGNED, vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest", extent=extent
    )
    axis.set_facecolor("#DDDDDD")
    return image


def _plain(axis: Any) -> None:
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=2)


def _names_below(axis: Any, names: list[str]) -> None:
    steep = len(names) > 8
    axis.set_xticks(
        range(len(names)),
        names,
        rotation=90 if steep else 40,
        ha="center" if steep else "right",
        rotation_mode="default" if steep else "anchor",
        size=6 if steep else 7,
    )


def _ticks(axis: Any, layers: list[int]) -> None:
    every = -(-len(layers) // 12)
    axis.set_ticks(range(0, len(layers), every), [str(n) for n in layers[::every]])


def _colour_bar(figure: Any, image: Any, axes: Any, label: str, where: str = "right") -> None:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(image, ax=axes, location=where, shrink=0.9, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label, size=8)
    bar.ax.tick_params(labelsize=7)
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
