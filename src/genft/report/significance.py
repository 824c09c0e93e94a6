"""Which differences between two methods are real: a paired bootstrap over examples and seeds.

Both methods answered the same examples, with the same seeds. A draw takes as many examples as there are, with
replacement, scores both methods on them, and takes as many seeds as there are, also in pairs: the spread of the
difference over many draws says how much it would change with other examples *and* other seeds. With one seed only the
examples are drawn, and the interval says nothing about another seed.

The variance of resampled means of S seeds is too small by (S − 1) / S; the seeds' deviations are therefore stretched
by √(S / (S − 1)). What three seeds do not tell, no resampling adds: docs/report.md has the measured coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Floats = NDArray[np.float64]
K = TypeVar("K", bound=Hashable)

DRAWS = 10_000
#: Weights that are held at once, (draws, kinds).
_WEIGHTS = 2_000_000


@dataclass(frozen=True)
class Difference:
    """The score of one method less that of another, on the same examples with the same seeds.

    Attributes:
        value: mean over the seeds.
        low, high: 95 % interval.
        p: two-sided: how often a draw says the opposite; at least 2 / (draws + 1).
        seeds: how many both methods have.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int


def bootstrap(
    metric: str, first: Array, second: Array, target: Array, seed: int | tuple[int, ...] = 0, draws: int = DRAWS
) -> tuple[float, Floats]:
    """(the observed difference, as many drawn ones), of scores by ``metric``.

    Args:
        first, second: what either method predicted, (seeds, examples).
        target: (examples,).
        seed: of the draws: equal calls give equal results.
    """
    if metric == "accuracy":  # which example was right is all that counts, and leaves few kinds of examples
        first, second, target = first == target, second == target, np.ones_like(target, dtype=bool)
    kinds, counts = np.unique(np.stack([target, *first, *second]), axis=1, return_counts=True)
    seeds, n = len(first), len(target)
    rng = np.random.default_rng(seed)

    def differences(weights: Floats) -> Floats:
        scored = np.stack([_WEIGHTED[metric](kind, kinds[0], weights) for kind in kinds[1:]], axis=1)
        return scored[:, :seeds] - scored[:, seeds:]

    observed = differences(counts[None].astype(float)).mean()
    drawn = []
    at_once = max(1, _WEIGHTS // len(counts))
    for start in range(0, draws, at_once):
        some = min(at_once, draws - start)
        of_seeds = differences(rng.multinomial(n, counts / n, some).astype(float))
        mean = of_seeds.mean(axis=1)
        if seeds > 1:
            taken = np.take_along_axis(of_seeds, rng.integers(0, seeds, (some, seeds)), axis=1).mean(axis=1)
            mean = mean + np.sqrt(seeds / (seeds - 1)) * (taken - mean)
        drawn.append(mean)
    return float(observed), np.concatenate(drawn)


def summarise(observed: float, drawn: Floats, seeds: int) -> Difference:
    """The percentile interval of the draws, and how often they have the other sign."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    against = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    return Difference(observed, float(low), float(high), min(1.0, 2 * (float(against) + 1) / (len(drawn) + 1)), seeds)


def holm(p: Mapping[K, float]) -> dict[K, float]:
    """Holm's step-down correction: below 0.05 where a difference is real though so many were looked at."""
    adjusted: dict[K, float] = {}
    highest = 0.0
    for rank, key in enumerate(sorted(p, key=lambda key: p[key])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[key]))
        adjusted[key] = highest
    return adjusted


# The metrics of training/metrics.py where an example counts several times: predicted and target (kinds,), weights
# (draws, kinds), scores (draws,).


def _accuracy(predicted: Array, target: Array, weights: Floats) -> Floats:
    return weights @ (predicted == target) / weights.sum(axis=1)


def _f1_of(c: object, predicted: Array, target: Array, weights: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """(F1 of class ``c``, whether it occurs at all)."""
    twice = 2 * weights @ ((predicted == c) & (target == c))
    total = weights @ ((predicted == c).astype(float) + (target == c))
    return np.divide(twice, total, out=np.zeros_like(total), where=total > 0), total > 0


def _f1(predicted: Array, target: Array, weights: Floats) -> Floats:
    return _f1_of(1, predicted, target, weights)[0]


def _macro_f1(predicted: Array, target: Array, weights: Floats) -> Floats:
    classes = [_f1_of(c, predicted, target, weights) for c in np.union1d(predicted, target)]
    return np.sum([f1 for f1, _ in classes], axis=0) / np.sum([occurs for _, occurs in classes], axis=0)


def _matthews(predicted: Array, target: Array, weights: Floats) -> Floats:
    n = weights.sum(axis=1)
    classes = np.union1d(predicted, target)
    said = weights @ (predicted[:, None] == classes)
    true = weights @ (target[:, None] == classes)
    above = n * (weights @ (predicted == target)) - (said * true).sum(axis=1)
    below = np.sqrt((n**2 - (said**2).sum(axis=1)) * (n**2 - (true**2).sum(axis=1)))
    return np.divide(above, below, out=np.zeros_like(n), where=below > 0)


def _correlate(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's correlation; x and y are (kinds,) or (draws, kinds)."""
    n = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / n
    y = y - (weights * y).sum(axis=1, keepdims=True) / n
    above = (weights * x * y).sum(axis=1)
    below = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    return np.divide(above, below, out=np.zeros_like(above), where=below > 1e-12 * n[:, 0])


def _pearson(predicted: Array, target: Array, weights: Floats) -> Floats:
    return _correlate(predicted.astype(float), target.astype(float), weights)


def _ranks(values: Array, weights: Floats) -> Floats:
    """The rank of every kind in every draw, ties averaged: (draws, kinds)."""
    levels, level = np.unique(values, return_inverse=True)
    order = np.argsort(level, kind="stable")
    counts = np.add.reduceat(weights[:, order], np.searchsorted(level[order], np.arange(len(levels))), axis=1)
    return (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, level]


def _spearman(predicted: Array, target: Array, weights: Floats) -> Floats:
    return _correlate(_ranks(predicted, weights), _ranks(target, weights), weights)


_WEIGHTED: dict[str, Callable[[Array, Array, Floats], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
