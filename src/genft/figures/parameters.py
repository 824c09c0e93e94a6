"""Trained parameters against rank: Figure 2 of GenFT's paper, counted on the real architectures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genft.figures.style import SERIES, save, style

if TYPE_CHECKING:
    from genft.counts import RankCurve

_ROUND = [digit * 10**power for power in range(3, 9) for digit in (1, 2, 5)]


def parameters_against_rank(
    curves: Sequence[RankCurve], presets: Sequence[tuple[int, int]], benchmark: str, path: Path
) -> None:
    """Draw Figure 2 of GenFT's paper, with its presets for ``benchmark`` as points (rank, parameters)."""
    with style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(5.2, 3.2))
        for curve, (colour, marker, dashes) in zip(curves, SERIES, strict=False):
            axes.plot(curve.ranks, curve.parameters, color=colour, marker=marker, linestyle=dashes)
            end = (curve.ranks[-1], curve.parameters[-1])
            axes.annotate(curve.label, end, (7, 0), textcoords="offset points", color=colour, va="center")
        axes.scatter(
            [r for r, _ in presets], [n for _, n in presets], marker="x", color="black", s=16, linewidths=0.9, zorder=3
        )
        axes.annotate(
            f"× presets for {benchmark}",
            max(presets),
            (0, -20),
            textcoords="offset points",
            ha="center",
            va="top",
            bbox={"color": "white", "pad": 1},
        )
        axes.set(xlabel="rank (LoRA r, GenFT a + b)", ylabel="trained parameters (millions)", yscale="log")
        ticks = [n for n in _ROUND if curves[-1].parameters[0] / 2 < n < 2 * curves[0].parameters[-1]]
        axes.set_yticks(ticks, [f"{n / 1e6:g}" for n in ticks])
        axes.minorticks_off()
        save(figure, path)
