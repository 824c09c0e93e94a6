"""What all figures share: one style, readable in print and by colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from genft.errors import ConfigError, first_line, not_one_of

#: Figures, each with the suffix of its file name.
Drawn = Iterator[tuple[str, Any]]

#: (colour of Okabe and Ito, marker, dashes): series differ in all three.
SERIES = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"))
FORMATS = ("png", "svg", "pdf")
#: The width of a page, in inches.
WIDTH = 7.0
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
    """Context manager for everything that draws: ``with style(): ...``."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("figure: matplotlib is not installed: pip install 'genft[report]'") from None
    matplotlib.use("agg")
    return matplotlib.rc_context(_STYLE)


def check_format(name: str) -> None:
    """Refuse a file format before any work is done."""
    if name not in FORMATS:
        raise ConfigError(not_one_of("format", name, FORMATS))


def save(figure: Any, path: Path) -> None:
    """Write ``figure`` in the format given by the extension of ``path`` (.png, .svg, .pdf), and close it."""
    import matplotlib.pyplot as plt

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight")
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror})") from None
    except ValueError as e:  # an extension that matplotlib does not know
        raise ConfigError(f"{path}: {first_line(e)}") from None
    finally:
        plt.close(figure)


def panels(n: int, columns: int, size: tuple[float, float], *, shared: bool = False) -> tuple[Any, list[Any]]:
    """(a figure of ``size``, its ``n`` panels in rows of ``columns``)."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        -(-n // columns), columns, figsize=size, squeeze=False, sharex=shared, sharey=shared, layout="constrained"
    )
    for axis in axes.flat[n:]:
        axis.remove()
    return figure, list(axes.flat[:n])


def colour_bar(figure: Any, image: Any, axes: Any, label: str, where: str = "right") -> Any:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(image, ax=axes, location=where, shrink=0.9, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label, size=8)
    bar.ax.tick_params(labelsize=7)
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
    return bar
