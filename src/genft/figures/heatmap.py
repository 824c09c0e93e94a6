"""What all heat maps share.

Diverging colours (red and blue) if the sign matters, sequential ones otherwise; both are safe for colour-blind readers,
and panels that are compared share one scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genft.figures.style import WIDTH, colour_bar, panels

SIGNED, SIZED = "RdBu_r", "cividis"
#: Cells of a heat map per side: more would not be visible in print, so neighbours are averaged.
CELLS = 400
#: The scale covers all cells except this share, the largest.
BEYOND = 0.005

Matrix = NDArray[np.float64]
Extent = tuple[float, float, float, float]


def step(n: int) -> int:
    """How many neighbours out of n are averaged into one cell."""
    return -(-n // CELLS)


def pooled(matrix: Tensor) -> Matrix:
    """``matrix`` (o, i) with neighbours averaged, so that no side has more than CELLS cells."""
    cells = matrix.detach().cpu().double().numpy()
    for axis in (0, 1):
        starts = np.arange(0, cells.shape[axis], step(cells.shape[axis]))
        sizes = np.diff(np.append(starts, cells.shape[axis]))
        cells = np.add.reduceat(cells, starts, axis=axis) / np.expand_dims(sizes, 1 - axis)
    return cells


def reach(matrices: Sequence[Matrix]) -> float:
    """The limit of a scale that is symmetric about 0; a few outliers exceed it, or everything else would be pale."""
    sizes = np.abs(np.concatenate([m[~np.isnan(m)] for m in matrices]))
    return float(np.quantile(sizes, 1 - BEYOND)) or 1.0 if len(sizes) else 1.0


def signed_image(axis: Any, matrix: Matrix, limit: float, extent: Extent | None = None) -> Any:
    """``matrix`` in diverging colours from −limit to limit; grey where it is NaN."""
    plain(axis)
    image = axis.imshow(
        matrix, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest", extent=extent
    )
    axis.set_facecolor("#DDDDDD")
    return image


def signed_panels(
    matrices: Mapping[tuple[str, str], Matrix], label: str, *, square: bool, extent: Extent | None = None
) -> tuple[Any, list[Any]]:
    """(a figure with one signed heat map per (adapter, target), three per row, on one scale; its panels)."""
    several = len({adapter for adapter, _ in matrices}) > 1
    columns = min(3, len({target for _, target in matrices}))
    rows = -(-len(matrices) // columns)
    width = min(WIDTH, 1.2 + 2.4 * columns)
    height = (width - 1.2) / columns if square else 1.3
    figure, axes = panels(len(matrices), columns, (width, (height + 0.3) * rows + 0.4))
    limit = reach(list(matrices.values()))
    for axis, ((adapter, target), matrix) in zip(axes, matrices.items(), strict=True):
        image = signed_image(axis, matrix, limit, extent)
        axis.set_title(f"{adapter}: {target}" if several else target)
    colour_bar(figure, image, axes, label)
    return figure, axes


def numbers_in_cells(axis: Any, table: Matrix, scale: Any, form: str) -> None:
    """Write each number of ``table`` into its cell, in a readable colour."""
    for (r, c), value in np.ndenumerate(table):
        if not math.isnan(value):
            colour = "white" if float(scale(value)) < 0.5 else "black"
            axis.text(c, r, form.format(value).rstrip("."), ha="center", va="center", size=7, color=colour)


def plain(axis: Any) -> None:
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=2)


def names_below(axis: Any, names: Sequence[str]) -> None:
    steep = len(names) > 8
    axis.set_xticks(
        range(len(names)),
        names,
        rotation=90 if steep else 40,
        ha="center" if steep else "right",
        rotation_mode="default" if steep else "anchor",
        size=6 if steep else 7,
    )


def layer_ticks(axis: Any, layers: Sequence[int]) -> None:
    """Label ``axis`` (an x or y axis) with at most twelve layer numbers."""
    every = -(-len(layers) // 12)
    axis.set_ticks(range(0, len(layers), every), [str(n) for n in layers[::every]])
