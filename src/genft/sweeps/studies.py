"""The studies: what each compares, and what it measured.

ablation        Table 4     GenFT without its shared part, specific part, row stage or column stage
ratio-scaling   Figure 3    w0_ratio × scaling
shared-dim      Figure 4    columns of the shared factors
rank            Figure 2    parameters, and here also the score, of GenFT and LoRA at equal rank
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from genft import published
from genft.api.settings import full_settings
from genft.counts import ABLATIONS
from genft.data import Task
from genft.errors import ConfigError, not_one_of
from genft.methods import get_method
from genft.runs.measured import Result
from genft.runs.request import build_spec
from genft.sweeps.matrix import Entry, Matrix
from genft.sweeps.schedule import Schedule

Grid = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Variant:
    """One configuration that a study measures.

    Attributes:
        name: as shown: "w/o row", "LoRA".
        entry: what the bench runs.
        place: its coordinates on the study's axes.
        published: its name in genft's published numbers, or None if nothing is published.
    """

    name: str
    entry: Entry
    place: Mapping[str, float] = field(default_factory=dict)
    published: str | None = None


@dataclass(frozen=True)
class Measured:
    """A variant on a task, over seeds."""

    suite: str
    task: str
    metric: str
    variant: Variant
    results: tuple[Result, ...]

    @property
    def mean(self) -> float:
        return fmean(r.scores.value for r in self.results) if self.results else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds; nan with fewer than two."""
        return stdev(r.scores.value for r in self.results) if len(self.results) > 1 else math.nan

    @property
    def parameters(self) -> int | None:
        """The number of the adapter's parameters, or None if every run failed."""
        return self.results[0].counts.adapter if self.results else None

    @property
    def printed(self) -> float | None:
        """The paper's number for this variant on this task, as a fraction."""
        numbers = published.find(self.suite, self.task, self.variant.published) if self.variant.published else ()
        return numbers[0].value / 100 if numbers else None


@dataclass(frozen=True)
class Study:
    """One kind of study.

    Attributes:
        text: what it shows, and where in the paper.
        axes: the varied settings and their values, unless the user gives others.
        variants: (grid, settings of a method by its name) → the variants to measure.
    """

    name: str
    text: str
    axes: Grid
    variants: Callable[[Grid, Callable[[str], Mapping[str, Any]]], list[Variant]]

    def grid(self, chosen: Grid) -> Grid:
        """The study's axes with the values that the user gave.

        Raises:
            ConfigError: an axis that this study does not have.
        """
        if unknown := [axis for axis in chosen if axis not in self.axes]:
            if not self.axes:
                raise ConfigError(f"grid: the study {self.name!r} has no axes")
            raise ConfigError(not_one_of("grid", unknown[0], self.axes, what=f"is not an axis of {self.name!r}"))
        for axis, values in chosen.items():
            if all(isinstance(n, int) for n in self.axes[axis]) and any(n != int(n) for n in values):
                raise ConfigError(f"grid: {axis} takes whole numbers")
        return {**self.axes, **chosen}


def _variant(
    name: str, method: str, place: Mapping[str, float], changed: Mapping[str, Any], published: str | None = None
) -> Variant:
    """A variant with ``changed`` settings, labelled in the notation of `genft bench`."""
    text = ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in changed.items())
    return Variant(name, Entry(f"{method}[{text}]" if text else method, get_method(method), changed), place, published)


def _ablation(grid: Grid, settings: Callable[[str], Mapping[str, Any]]) -> list[Variant]:
    own = settings("genft")
    no_shared, no_specific = (ABLATIONS[name](own) for name in ("genft_no_shared", "genft_no_specific"))
    return [
        _variant("GenFT", "genft", {}, {}, "genft"),
        _variant("w/o shared", "genft", {}, no_shared, "genft_no_shared"),
        _variant("w/o specific", "genft", {}, no_specific, "genft_no_specific"),
        _variant("w/o row", "genft", {}, {"row_stage": False}, "genft_no_row"),
        _variant("w/o column", "genft", {}, {"col_stage": False}, "genft_no_column"),
    ]


def _every_point(grid: Grid, settings: Callable[[str], Mapping[str, Any]]) -> list[Variant]:
    whole = {axis for axis in grid if isinstance(settings("genft")[axis], int)}
    points = (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
    return [
        _variant("GenFT", "genft", place, {k: int(v) if k in whole else v for k, v in place.items()})
        for place in points
    ]


def _ranks(grid: Grid, settings: Callable[[str], Mapping[str, Any]]) -> list[Variant]:
    """GenFT with a + b = LoRA's r, on the same weights, query and value; LoRA keeps its scale alpha / r."""
    b, lora = settings("genft")["specific_dim"], settings("lora")
    variants = []
    for rank in map(int, grid["rank"]):
        alpha = lora["lora_alpha"] * rank / lora["r"]
        whole_alpha = int(alpha) if alpha == int(alpha) else alpha
        if rank > b:
            dims = {"scope": "qv", "shared_dim": rank - b, "specific_dim": b}
            variants.append(_variant("GenFT", "genft", {"rank": rank}, dims))
        variants.append(_variant("LoRA", "lora", {"rank": rank}, {"r": rank, "lora_alpha": whole_alpha}))
    return variants


STUDIES = {
    study.name: study
    for study in (
        Study("ablation", "what each part of GenFT contributes (Table 4)", {}, _ablation),
        Study(
            "ratio-scaling",
            "how much of W0 is used, against the scale of the update (Figure 3)",
            {"w0_ratio": (0.01, 0.03, 0.1, 0.3, 1.0, 1.6), "scaling": (0.001, 0.01, 0.03, 0.1, 0.4, 1.6)},
            _every_point,
        ),
        Study(
            "shared-dim",
            "the number of columns that all weights share (Figure 4)",
            {"shared_dim": (4, 8, 16, 32, 48, 64, 82, 100)},
            _every_point,
        ),
        Study(
            "rank",
            "trained parameters (Figure 2) and score at equal rank, GenFT and LoRA",
            {"rank": (4, 8, 16, 32, 64, 128)},
            _ranks,
        ),
    )
}


def get_study(name: str) -> Study:
    if name not in STUDIES:
        raise ConfigError(not_one_of("study", name, STUDIES))
    return STUDIES[name]


def study_matrices(
    study: Study, tasks: Sequence[Task], grid: Grid, settings: Mapping[str, Any], **matrix: Any
) -> list[tuple[Matrix, list[Variant]]]:
    """One matrix per task, because a preset may have different settings for each.

    Args:
        settings: the user's settings of GenFT; those that the study varies take precedence.
        matrix: what all matrices have in common: model, preset, seeds, training, run.
    """
    grid = study.grid(grid)
    matrices = []
    for task in tasks:

        def settings_of(method: str, task: Task = task) -> Mapping[str, Any]:
            own = settings if method == "genft" else {}
            request = build_spec(task, matrix["model"], matrix["preset"], settings=own, method=method)
            return full_settings(request.method, request.spec.settings)

        variants = [
            _variant(v.name, "genft", v.place, {**settings, **v.entry.settings}, v.published)
            if v.entry.method.name == "genft"
            else v
            for v in study.variants(grid, settings_of)
        ]
        matrices.append((Matrix(tasks=(task,), entries=tuple(v.entry for v in variants), **matrix), variants))
    return matrices


def measure(schedule: Schedule, variants: Sequence[Variant]) -> list[Measured]:
    """The measurements of a finished schedule by variant; failed runs are left out."""
    measured = []
    (task,) = schedule.matrix.tasks
    metric = schedule.data[task.name].task.metric
    for variant in variants:
        keys = dict.fromkeys(p.key for label, p in schedule.compared if label == variant.entry.label)
        outcomes = [schedule.outcomes.get(key) for key in keys]
        measured.append(
            Measured(task.suite, task.name, metric, variant, tuple(o for o in outcomes if isinstance(o, Result)))
        )
    return measured
