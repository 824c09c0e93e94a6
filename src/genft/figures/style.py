"""Results as figures: one style, readable in print and by people who do not tell all colours apart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genft.errors import ConfigError, not_one_of

if TYPE_CHECKING:
    from genft.counts import RankCurve

#: (colour of Okabe and Ito, marker, dashes): series differ in all three.
SERIES = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"))
FORMATS = ("png", "svg", "pdf")
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
}


def style() -> AbstractContextManager[Any]:
    """``with style():`` around everything that draws."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("figure: matplotlib is not installed: pip install 'genft[report]'") from None
    matplotlib.use("agg")
    return matplotlib.rc_context(_STYLE)


def check_format(name: str) -> None:
    """Refuse a format of files, before any work is done."""
    if name not in FORMATS:
        raise ConfigError(not_one_of("format", name, FORMATS))


def save(figure: Any, path: Path) -> None:
    """Write ``figure`` in the format that the ending of ``path`` names: .png, .svg, .pdf."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight")
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror})") from None
    except ValueError as e:  # an ending that matplotlib does not know
        raise ConfigError(f"{path}: {str(e).splitlines()[0]}") from None


def parameters_against_rank(
    curves: Sequence[RankCurve], presets: Sequence[tuple[int, int]], benchmark: str, path: Path
) -> None:
    """Figure 2 of GenFT's paper, with its presets for ``benchmark`` as points (rank, parameters)."""
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
        plt.close(figure)


_ROUND = [digit * 10**power for power in range(3, 9) for digit in (1, 2, 5)]
