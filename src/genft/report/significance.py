"""Which differences between two methods are real: a paired bootstrap over examples and seeds.

Both methods were evaluated on the same examples, with the same seeds. Each draw resamples the examples with
replacement, scores both methods on them, and resamples the seeds, also in pairs: the spread of the difference over many
draws shows how much it would change with other examples *and* other seeds. With one seed, only the examples are
resampled, and the interval does not cover other seeds.

The variance of resampled means of S seeds is too small by a factor of (S − 1) / S; the seeds' deviations are therefore
scaled by √(S / (S − 1)). Resampling cannot add information that three seeds do not hold: docs/report.md has the
measured coverage.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple, TypeVar

import numpy as np

from genft.errors import ConfigError, DataError, not_one_of
from genft.families.metrics import METRICS, Array, Floats, Metric, distinct, resample
from genft.report.boards import Board
from genft.runs.measured import Result
from genft.runs.store import answers

K = TypeVar("K", bound=Hashable)

DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """The score of one method minus that of another, on the same examples with the same seeds.

    Attributes:
        value: mean over the seeds.
        low, high: 95 % interval.
        p: two-sided p-value: how often a draw has the other sign; at least 2 / (draws + 1).
        seeds: the number of seeds that both methods have.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int


class Tested(NamedTuple):
    """A difference, and its p-value after Holm's correction over all differences of its table."""

    difference: Difference
    p: float

    @property
    def real(self) -> bool:
        return self.p < 0.05


@dataclass(frozen=True)
class Differences:
    """Every method compared with the reference.

    Attributes:
        tasks: by (task, label).
        means: by label; differences of the mean over the common tasks.
        notes: a sentence for each comparison that was not possible.
    """

    reference: str
    tasks: Mapping[tuple[str, str], Tested]
    means: Mapping[str, Tested]
    notes: tuple[str, ...] = ()


class ComparedBoard(NamedTuple):
    """A board, and the differences between its methods and one of them."""

    board: Board
    differences: Differences


def compare(board: Board, against: str | None = None) -> Differences:
    """Compare every method with ``against`` (by default the best by its mean), example by example.

    Raises:
        ConfigError: ``against`` is not a column of the board.
    """
    if against is not None and against not in board.labels:
        raise ConfigError(not_one_of("--against", against, board.labels))
    reference = against or board.reference()
    tasks: dict[tuple[str, str], Difference] = {}
    means: dict[str, Difference] = {}
    notes: list[str] = []
    for label in (label for label in board.labels if label != reference):
        observed: list[float] = []
        drawn: list[Floats] = []
        fewest = len(board.seeds)
        for task in board.tasks:
            pairs = _pairs(board, task, label, reference)
            if not (pairs and board.has_score(task, label) and board.has_score(task, reference)):
                continue
            try:
                difference, draws = paired_draws(task, pairs)
            except DataError as e:
                notes.append(f"not compared: {e}")
                continue
            tasks[task, label] = summarise(difference, draws, len(pairs))
            if task in board.common:
                observed.append(difference)
                drawn.append(draws)
                fewest = min(fewest, len(pairs))
        everywhere = len(observed) == len(board.common) and {label, reference} <= set(board.complete)
        if observed and everywhere and board.mean_metric:
            means[label] = summarise(fmean(observed), np.mean(drawn, axis=0), fewest)
    return Differences(reference, _corrected(tasks), _corrected(means), tuple(dict.fromkeys(notes)))


def _pairs(board: Board, task: str, label: str, reference: str) -> list[tuple[Result, Result]]:
    """The runs of both methods, paired by seed."""
    ours, theirs = ({run.seed: run for run in board.runs.get((task, name), ())} for name in (label, reference))
    return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def paired_draws(task: str, pairs: Sequence[tuple[Result, Result]]) -> tuple[float, Floats]:
    """(the observed difference, the drawn ones) for pairs of runs with equal seeds.

    Raises:
        DataError: predictions cannot be read, are not of the same examples, or are not numbers.
    """
    first, second = pairs[0]
    sides = [[answers(pair[side]) for pair in pairs] for side in (0, 1)]
    target, *targets = (target for side in sides for _, target in side)
    if not all(np.array_equal(target, other) for other in targets):
        raise DataError(f"{task}: {first.label} and {second.label} were not evaluated on the same examples")
    ours, theirs = (np.stack([predicted for predicted, _ in side]) for side in sides)
    observed, drawn = bootstrap(METRICS[first.scores.metric], ours, theirs, target, seed=(0, zlib.crc32(task.encode())))
    if not (np.isfinite(observed) and np.isfinite(drawn).all()):
        raise DataError(f"{task}: {first.label} or {second.label} has predictions that are not finite")
    return observed, drawn


def bootstrap(
    metric: Metric, first: Array, second: Array, target: Array, seed: int | tuple[int, ...] = 0, draws: int = DRAWS
) -> tuple[float, Floats]:
    """(the observed difference, ``draws`` drawn ones) between scores by ``metric``.

    Args:
        first, second: the predictions of each method, (seeds, examples).
        target: the right answers, (examples,).
        seed: seeds the draws, so that equal calls give equal results.
    """
    if metric.counts_hits:  # leaves few distinct examples
        first, second, target = first == target, second == target, np.ones_like(target, dtype=bool)
    (target, *predicted), counts = distinct(target, *first, *second)
    seeds = len(first)
    rng = np.random.default_rng(seed)

    def differences(weights: Floats) -> Floats:
        scored = np.stack([metric.weighted(answers, target, weights) for answers in predicted], axis=1)
        return scored[:, :seeds] - scored[:, seeds:]

    observed = differences(counts[None].astype(float)).mean()
    drawn = []
    for weights in resample(counts, draws, rng):
        by_seed = differences(weights)
        mean = by_seed.mean(axis=1)
        if seeds > 1:
            chosen = rng.integers(0, seeds, (len(weights), seeds))
            resampled = np.take_along_axis(by_seed, chosen, axis=1).mean(axis=1)
            mean = mean + np.sqrt(seeds / (seeds - 1)) * (resampled - mean)
        drawn.append(mean)
    return float(observed), np.concatenate(drawn)


def summarise(observed: float, drawn: Floats, seeds: int) -> Difference:
    """The percentile interval of the draws, and how often they have the other sign."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    against = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    return Difference(observed, float(low), float(high), min(1.0, 2 * (float(against) + 1) / (len(drawn) + 1)), seeds)


def _corrected(differences: Mapping[K, Difference]) -> dict[K, Tested]:
    p = holm({key: difference.p for key, difference in differences.items()})
    return {key: Tested(difference, p[key]) for key, difference in differences.items()}


def holm(p: Mapping[K, float]) -> dict[K, float]:
    """Holm's step-down correction: p < 0.05 still means a real difference, however many are tested."""
    adjusted: dict[K, float] = {}
    highest = 0.0
    for rank, key in enumerate(sorted(p, key=lambda key: p[key])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[key]))
        adjusted[key] = highest
    return adjusted
