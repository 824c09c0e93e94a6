"""The figures of `genft show` by name, and the function that writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genft.errors import ConfigError, not_one_of
from genft.figures import curves, maps, vectorfit
from genft.figures.style import Drawn, check_format, save, style
from genft.figures.updates import Subject

#: Number of targets whose whole matrices are drawn if the user names none and the model has no query and value.
MATRICES = 3


@dataclass(frozen=True)
class FigureKind:
    """One kind of figure.

    Attributes:
        text: what it shows.
        draw: (subjects, targets, layers) → the figures, each with the suffix of its file name.
        few: whether it shows whole matrices, so that only some layers and targets are drawn by default.
        suits: whether there is anything to draw for an adapter.
    """

    text: str
    draw: Callable[[Sequence[Subject], list[str], list[int]], Drawn]
    few: bool = False
    suits: Callable[[Subject], bool] = lambda _: True


FIGURES = {
    "weights": FigureKind("W0, W0 + ΔW and ΔW as heat maps, per target and layer", maps.weights, few=True),
    "profiles": FigureKind("mean and variance of every row, and of every column, of ΔW", curves.profiles, few=True),
    "spectra": FigureKind("singular values of ΔW, a line per layer", curves.spectra),
    "rank": FigureKind("effective rank of ΔW per layer and target", maps.ranks),
    "norms": FigureKind("‖ΔW‖ / ‖W0‖ per layer and target", maps.norms),
    "cosine": FigureKind("cosine between the updates of any two layers", maps.cosines),
    "sigma": FigureKind(
        "VectorFit: how far each singular value moved",
        vectorfit.shifts,
        suits=lambda s: any(u.shift is not None for u in s.updates.values()),
    ),
    "freezing": FigureKind(
        "VectorFit: training strength of every vector each time AVF froze some",
        vectorfit.freezing,
        suits=lambda s: bool(s.history and s.history.events),
    ),
}


def draw(
    subjects: Sequence[Subject],
    out: Path,
    *,
    only: Iterable[str] = (),
    targets: Iterable[str] = (),
    layers: Iterable[int] = (),
    format: str = "png",
) -> dict[str, list[Path]]:
    """Write figures of the adapters, two of them side by side on one scale; returns name → its files.

    Args:
        only: names in :data:`FIGURES`; by default all figures that have something to draw.
        targets: weights to draw; by default all that the adapters have in common, for whole matrices query and value.
        layers: layers to draw; by default all, for whole matrices the first, the middle and the last.

    Raises:
        ConfigError: a name, target or layer does not exist, or a requested figure has nothing to show.
    """
    check_format(format)
    only, targets, layers = list(only), list(targets), list(layers)
    common = [t for t in subjects[0].targets() if all(t in s.targets() for s in subjects)]
    numbers = sorted(set[int].intersection(*(set(s.layers()) for s in subjects)))
    problems = [not_one_of("only", name, FIGURES) for name in only if name not in FIGURES]
    problems += [not_one_of("targets", t, common, what="is not adapted") for t in targets if t not in common]
    problems += [not_one_of("layers", n, map(str, numbers), what="is not adapted") for n in layers if n not in numbers]
    if not common or not numbers:
        problems.append(
            f"{subjects[0].label} adapts {', '.join(subjects[0].targets())}, {subjects[-1].label} "
            f"{', '.join(subjects[-1].targets())}: no weight in common"
        )
    if problems:
        raise ConfigError(problems)
    written: dict[str, list[Path]] = {}
    with style():
        for name, kind in FIGURES.items():
            shown = [s for s in subjects if kind.suits(s)]
            if only and name in only and not shown:
                raise ConfigError(f"only: {name}: {subjects[0].label} has nothing to show ({kind.text})")
            if not shown or (only and name not in only):
                continue
            chosen = targets or (_query_and_value(common) if kind.few else common)
            drawn = kind.draw(shown, chosen, layers or (_spread(numbers) if kind.few else numbers))
            for ending, figure in drawn:
                path = out / f"{name}{ending}.{format}"
                save(figure, path)
                written.setdefault(name, []).append(path)
    return written


def _query_and_value(targets: list[str]) -> list[str]:
    return [t for t in targets if t.rpartition(".")[2].startswith(("q", "v"))] or targets[:MATRICES]


def _spread(layers: list[int]) -> list[int]:
    return sorted({layers[0], layers[len(layers) // 2], layers[-1]})
