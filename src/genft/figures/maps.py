"""Heat maps of ΔW: whole matrices, numbers per layer and target, and how layers compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genft.figures.heatmap import (
    CELLS,
    SIZED,
    Matrix,
    layer_ticks,
    names_below,
    numbers_in_cells,
    plain,
    pooled,
    reach,
    signed_image,
    signed_panels,
    step,
)
from genft.figures.positions import Position
from genft.figures.style import WIDTH, Drawn, colour_bar, panels
from genft.figures.updates import Subject, WeightUpdate


def weights(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """For each target, a row per layer: W0, then W0 + ΔW of each adapter, on one scale; then each ΔW, on another."""
    for target in targets:
        positions = [p for n in layers if all((p := Position(target, n)) in s.updates for s in subjects)]
        yield f"-{target}", _weights(subjects, target, positions)


def _weights(subjects: Sequence[Subject], target: str, positions: Sequence[Position]) -> Any:
    n = len(subjects)
    grid = [_weights_row([s.updates[position] for s in subjects]) for position in positions]
    limits = [reach([m for row in grid for m in row[part]]) for part in (slice(n + 1), slice(n + 1, None))]
    columns, rows = 2 * n + 1, len(grid)
    side = min(1.9, WIDTH / columns)
    figure, axes = panels(rows * columns, columns, (side * columns, side * rows + 0.9))
    figure.get_layout_engine().set(wspace=0.03, hspace=0.03)
    titles = ["W0\npretrained", *(f"W0 + ΔW\n{s.label}" for s in subjects), *(f"ΔW\n{s.label}" for s in subjects)]
    o, i = subjects[0].updates[positions[0]].w0.shape
    for number, (axis, matrix) in enumerate(zip(axes, (m for row in grid for m in row), strict=True)):
        r, c = divmod(number, columns)
        image = signed_image(axis, matrix, limits[c > n], extent=(0, i, o, 0))
        axis.set(xticks=[0, i], yticks=[0, o] if c == 0 else [], title=titles[c] if r == 0 else "")
        axis.tick_params(labelbottom=c == 0 and r == rows - 1, labelsize=7)
        if c == 0:
            axis.set_ylabel(f"layer {positions[r].layer}\noutput")
        if r == rows - 1:
            axis.set_xlabel("input")
            if c in (n, 2 * n):
                group = [a for k, a in enumerate(axes) if (k % columns > n) == (c > n)]
                colour_bar(figure, image, group, "entries of updates" if c > n else "entries of weights", "bottom")
    cell = f" (a cell is the mean of {step(o)} × {step(i)} entries)" if max(o, i) > CELLS else ""
    figure.suptitle(f"{target}{cell}", fontsize=9)
    return figure


def _weights_row(updates: Sequence[WeightUpdate]) -> list[Matrix]:
    w0 = updates[0].w0
    return [pooled(w0), *(pooled(w0 + u.delta) for u in updates), *(pooled(u.delta) for u in updates)]


def ranks(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    yield "", _by_layer(subjects, targets, layers, lambda u: u.effective_rank, "effective rank of ΔW", "{:.1f}")


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

    tables = [_table(s, targets, layers, number) for s in subjects]
    # a square-root scale, because one large number would leave one colour for all the others
    low, high = (float(f(np.concatenate(tables, axis=None))) for f in (np.nanmin, np.nanmax))
    scale = mpl.colors.PowerNorm(0.5, low, high)
    n = len(subjects)
    width = min(WIDTH, 1.6 + n * (0.4 + 0.62 * len(targets)))
    figure, axes = panels(n, n, (width, 1.3 + 0.24 * len(layers)), shared=True)
    for axis, subject, table in zip(axes, subjects, tables, strict=True):
        image = axis.imshow(table, cmap=SIZED, norm=scale, aspect="auto", origin="lower")
        numbers_in_cells(axis, table, scale, form)
        axis.set_title(subject.label)
        names_below(axis, targets)
        plain(axis)
    axes[0].set_yticks(range(len(layers)), [str(n) for n in layers])
    axes[0].set_ylabel("layer")
    colour_bar(figure, image, axes, label)
    return figure


def _table(subject: Subject, targets: list[str], layers: list[int], number: Callable[[WeightUpdate], float]) -> Matrix:
    numbers = {p: number(u) for p, u in subject.updates.items() if p.target in targets and p.layer in layers}
    return np.array([[numbers.get(Position(t, n), math.nan) for t in targets] for n in layers])


def cosines(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """For each adapter and target, ⟨ΔW_m, ΔW_n⟩ / ‖ΔW_m‖ ‖ΔW_n‖ of any two layers, without the diagonal of ones."""
    matrices = {
        (s.label, t): _cosines([s.updates.get(Position(t, n)) for n in layers]) for s in subjects for t in targets
    }
    figure, axes = signed_panels(matrices, "cosine", square=True)
    for axis in axes:
        layer_ticks(axis.xaxis, layers)
        layer_ticks(axis.yaxis, layers)
    figure.supxlabel("layer", fontsize=9)
    figure.supylabel("layer", fontsize=9)
    yield "", figure


def _cosines(updates: Sequence[WeightUpdate | None]) -> Matrix:
    """(layers, layers); NaN on the diagonal and for pairs without updates of the same shape."""
    flat = [None if u is None else u.delta.flatten() / u.delta.norm() for u in updates]
    return np.array(
        [
            [math.nan if a is None or b is None or a is b or len(a) != len(b) else float(a @ b) for b in flat]
            for a in flat
        ]
    )
