"""VectorFit: how far its singular values moved, and what adaptive vector freezing (AVF) did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genft.figures.heatmap import SIZED, layer_ticks, names_below, plain, pooled, signed_panels
from genft.figures.positions import Position, vector_site
from genft.figures.style import Drawn, colour_bar, panels
from genft.figures.updates import FreezingHistory, Subject

#: The most freezings that are drawn; if there are more, evenly spaced ones are chosen.
FREEZINGS = 10


def shifts(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """For each target, a row per layer: the change of every singular value, from the largest to the smallest."""
    matrices, longest = {}, 0
    for s in subjects:
        for target in targets:
            rows = [None if u is None else u.shift for u in (s.updates.get(Position(target, n)) for n in layers)]
            if any(row is not None for row in rows):
                k = max(len(row) for row in rows if row is not None)
                matrices[s.label, target] = np.vstack([pooled(_filled(row, k)) for row in rows])
                longest = max(longest, k)
    extent = (0, longest, len(layers) - 0.5, -0.5)
    figure, axes = signed_panels(matrices, "change of σ", square=False, extent=extent)
    for axis in axes:
        layer_ticks(axis.yaxis, layers)
    figure.supxlabel("index of the singular value of W0, largest first", fontsize=9)
    figure.supylabel("layer", fontsize=9)
    yield "", figure


def _filled(values: Tensor | None, n: int) -> Tensor:
    """``values`` as a row (1, n), padded with NaN."""
    row = torch.full((1, n), math.nan)
    if values is not None:
        row[0, : len(values)] = values
    return row


def freezing(subjects: Sequence[Subject], targets: list[str], layers: list[int]) -> Drawn:
    """AVF: one panel per freezing (ten at most); a row per layer, a column per vector, a dot on every frozen vector."""
    for subject in subjects:
        if subject.history is not None:
            yield f"-{subject.label}" if len(subjects) > 1 else "", _freezing(subject.history, subject.positions)


def _freezing(history: FreezingHistory, positions: dict[str, Position]) -> Any:
    import matplotlib as mpl

    vectors = {name: _layer_and_name(name, positions) for name in history.vectors}
    chosen = np.unique(np.linspace(0, len(history.events) - 1, FREEZINGS).round().astype(int))
    events = [history.events[i] for i in chosen]
    layers = sorted({layer for layer, _ in vectors.values()})
    names = list(dict.fromkeys(name for _, name in vectors.values()))
    columns = min(5 if len(names) <= 12 else 2, len(events))
    rows = -(-len(events) // columns)
    size = (max(1.2, 0.11 * len(names)) * columns + 0.7, (0.13 * len(layers) + 0.25) * rows + 1.2)
    figure, axes = panels(len(events), columns, size, shared=True)
    scale = mpl.colors.PowerNorm(0.5, 0, max(max(event.strength) for event in events))
    for number, (axis, event) in enumerate(zip(axes, events, strict=True)):
        table = np.full((len(layers), len(names)), math.nan)
        for (layer, name), strength in zip(vectors.values(), event.strength, strict=True):
            table[layers.index(layer), names.index(name)] = strength
        image = axis.imshow(table, cmap=SIZED, norm=scale, aspect="auto", origin="lower")
        frozen = [(names.index(name), layers.index(layer)) for layer, name in (vectors[v] for v in event.frozen)]
        if frozen:
            axis.scatter(*zip(*frozen, strict=True), s=9, color="white", edgecolors="black", linewidths=0.6)
        axis.set_title(f"after step {event.step}")
        names_below(axis, names)
        layer_ticks(axis.yaxis, layers)
        plain(axis)
        axis.tick_params(labelsize=6, labelbottom=number + columns >= len(events))  # the last panel of its column
        if number % columns == 0:
            axis.set_ylabel("layer")
    colour_bar(figure, image, axes, "training strength")
    figure.supxlabel("vectors; a dot marks one that is frozen until the next freezing", fontsize=9)
    return figure


def _layer_and_name(vector: str, positions: dict[str, Position]) -> tuple[int, str]:
    """AVF's name for a vector → (layer, its name within the layer: "query σ", "query b")."""
    site, symbol = vector_site(vector)
    position = positions[site]
    return position.layer, f"{position.target} {'σ' if symbol == 'sigma_bias' else 'b'}"
