"""How predictions are scored, by scikit-learn and SciPy, and how sure a score is."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from genft.errors import ConfigError, not_one_of

Array = NDArray[np.generic]


def _accuracy(predicted: Array, target: Array) -> float:
    return float(np.mean(predicted == target))


def _f1(predicted: Array, target: Array) -> float:
    """F1 of class 1, which is GLUE's for MRPC and QQP."""
    from sklearn.metrics import f1_score

    return float(f1_score(target, predicted, average="binary", zero_division=0.0))


def _macro_f1(predicted: Array, target: Array) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(target, predicted, average="macro", zero_division=0.0))


def _matthews(predicted: Array, target: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(target, predicted))


def _correlation(name: str) -> Callable[[Array, Array], float]:
    def correlate(predicted: Array, target: Array) -> float:
        from scipy import stats

        if np.ptp(predicted) == 0 or np.ptp(target) == 0:  # constants have no correlation; count it as none
            return 0.0
        return float(getattr(stats, name)(predicted, target).statistic)

    return correlate


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
}
_FOR_NUMBERS = {"pearson", "spearman"}


def check_metric(name: str, *, regression: bool) -> None:
    """Refuse a metric that does not exist or cannot score this kind of answer."""
    allowed = [m for m in METRICS if (m in _FOR_NUMBERS) == regression]
    if name not in allowed:
        raise ConfigError(not_one_of("metric", name, allowed, what="cannot score this task"))


def score(name: str, predicted: Array, target: Array) -> float:
    """The metric ``name`` of predictions: class numbers, or values in a regression."""
    return METRICS[name](predicted, target)


def scores(predicted: Array, target: Array, *, classes: int) -> dict[str, float]:
    """Every metric that suits the answers: numbers (``classes`` is 0), two classes, or more."""
    names = [m for m in METRICS if (m in _FOR_NUMBERS) == (classes == 0) and (m != "f1" or classes == 2)]
    return {name: score(name, predicted, target) for name in names}


def interval(name: str, predicted: Array, target: Array, level: float = 0.95, draws: int = 1000) -> tuple[float, float]:
    """A confidence interval over examples: Wilson's for accuracy, else a percentile bootstrap.

    It says how sure the score is for these weights; how much another seed would change is not in it.
    """
    from scipy import stats

    if name == "accuracy":
        correct = int(np.sum(predicted == target))
        found = stats.binomtest(correct, len(target)).proportion_ci(level, method="wilson")
        return float(found.low), float(found.high)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a draw may hold one class only
        drawn = np.random.default_rng(0).integers(0, len(target), (draws, len(target)))
        scores = [METRICS[name](predicted[rows], target[rows]) for rows in drawn]
    low, high = np.nanpercentile(scores, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
