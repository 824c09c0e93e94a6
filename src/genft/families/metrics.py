"""Metrics of predictions, and confidence intervals of scores.

Every score is computed from weighted examples, for many sets of weights at once. Weights of 1 give the plain score that
training reports; the numbers of times that a bootstrap draws each example give the scores of its draws. A test compares
every metric with scikit-learn or SciPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genft.errors import ConfigError, not_one_of
from genft.families.text_scores import TextScore

Array = NDArray[np.generic]
Floats = NDArray[np.float64]

#: The most weights (draws × distinct examples) that are held in memory at once.
_WEIGHTS_AT_ONCE = 2_000_000
#: A spread below this fraction of the largest value is the rounding error of a constant.
_ROUNDING = 1e-12


def same_for_all(predicted: Array, target: Array) -> bool:
    """Whether the prediction is the same for every example, up to rounding, although the targets differ; (n,) each."""
    if len(predicted) < 2 or not np.any(target != target[0]):
        return False
    if predicted.dtype.kind != "f":
        return bool(np.all(predicted == predicted[0]))
    return bool(np.ptp(predicted.astype(float)) <= 1e-6 * np.ptp(target.astype(float)))


@dataclass(frozen=True)
class Metric:
    """One way to score predictions.

    A prediction is a class number or a value, or several numbers whose sums over the examples decide the score.

    Attributes:
        text: a description for the user.
        weighted: predictions (examples, …), targets (examples,), weights (draws, examples) → scores (draws,).
        numbers: whether it scores numbers rather than classes.
        classes: the only number of classes that it supports, or None for any.
        higher_is_better: False for errors and losses.
        counts_hits: whether the score is the share of predictions that equal their target.
        scale: the factor for displayed scores: 100 for shares and correlations.
        digits: the number of displayed decimals.
        family: the family of tasks whose predictions it scores.
        width: the numbers of one prediction, if their sums decide the score; 0 for a class or a value.
    """

    name: str
    text: str
    weighted: Callable[[Array, Array, Floats], Floats]
    numbers: bool = False
    classes: int | None = None
    higher_is_better: bool = True
    counts_hits: bool = False
    scale: float = 100.0
    digits: int = 2
    family: str = "classification"
    width: int = 0

    def fits(self, classes: int | None) -> bool:
        """Whether it can score answers of ``classes`` classes (0: numbers; None: classes, number not known yet)."""
        if self.family != "classification":
            return False
        if classes == 0 or self.numbers:
            return self.numbers and classes == 0
        return classes is None or self.classes in (None, classes)

    def score(self, predicted: Array, target: Array) -> float:
        """The score of predictions (examples,): class numbers, or values in a regression."""
        (predicted, target), counts = distinct(predicted, target)
        return float(self.weighted(predicted, target, counts[None].astype(float))[0])

    def interval(self, predicted: Array, target: Array, level: float = 0.95, draws: int = 1000) -> tuple[float, float]:
        """A confidence interval over examples: Wilson's for a share of hits, otherwise a percentile bootstrap.

        It shows how certain the score is for these trained weights, not how much another seed would change it.
        """
        if self.counts_hits:
            from scipy import stats

            correct = int(np.sum(predicted == target))
            wilson = stats.binomtest(correct, len(target)).proportion_ci(level, method="wilson")
            return float(wilson.low), float(wilson.high)
        (predicted, target), counts = distinct(predicted, target)
        resampled = resample(counts, draws, np.random.default_rng(0))
        scores = np.concatenate([self.weighted(predicted, target, weights) for weights in resampled])
        low, high = np.nanpercentile(scores, [50 * (1 - level), 50 * (1 + level)])
        return float(low), float(high)

    def shown(self, value: float, sign: str = "") -> str:
        """A score, or a difference of scores, formatted for display; with ``sign="+"``, it always has a sign."""
        return f"{self.scale * value:{sign}.{self.digits}f}"

    @property
    def unit(self) -> str:
        """The suffix of the metric's name where scores are displayed: ``" × 100"``, or nothing."""
        return "" if self.scale == 1 else f" × {self.scale:g}"

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b


def metric_for(name: str, *, classes: int | None) -> Metric:
    """The metric ``name``, for answers of ``classes`` classes (0: numbers; None: classes, number not known yet).

    Raises:
        ConfigError: no metric has this name, or it cannot score such answers.
    """
    fitting = [m for m in METRICS.values() if m.fits(classes)]
    if name not in {m.name for m in fitting}:
        # before the classes are counted, a metric for two classes is listed with that condition
        names = [f"{m.name} ({m.classes} classes)" if classes is None and m.classes else m.name for m in fitting]
        raise ConfigError(not_one_of("metric", name, names, what=f"cannot score this task{_reason(name)}"))
    return METRICS[name]


def _reason(name: str) -> str:
    metric = METRICS.get(name)
    if metric is None or not (metric.numbers or metric.classes):
        return ""
    return " (it scores numbers)" if metric.numbers else f" (it needs {metric.classes} classes)"


def metrics_of(family: str) -> dict[str, Metric]:
    """The metrics that score the predictions of a family, by name."""
    return {name: metric for name, metric in METRICS.items() if metric.family == family}


def score_all(predicted: Array, target: Array, *, classes: int) -> dict[str, float]:
    """The score of every metric that fits the answers, by name: numbers (``classes`` is 0), two classes, or more."""
    return {m.name: m.score(predicted, target) for m in METRICS.values() if m.fits(classes)}


# ---------------------------------------------------------------- resampling


def distinct(*arrays: Array) -> tuple[list[Array], NDArray[np.int64]]:
    """(the distinct examples of ``arrays``, each (examples, …), as arrays of the kinds; how often each occurs)."""
    columns = [array.reshape(len(array), -1) for array in arrays]
    kinds, counts = np.unique(np.hstack(columns), axis=0, return_counts=True)
    parts = np.split(kinds, np.cumsum([column.shape[1] for column in columns])[:-1], axis=1)
    shaped = [part.reshape(len(kinds), *array.shape[1:]) for part, array in zip(parts, arrays, strict=True)]
    return shaped, counts


def resample(counts: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Weights (some draws, kinds) of ``draws`` bootstrap draws of as many examples as ``counts`` has, in batches."""
    examples = int(counts.sum())
    at_once = max(1, _WEIGHTS_AT_ONCE // len(counts))
    for start in range(0, draws, at_once):
        yield rng.multinomial(examples, counts / examples, min(at_once, draws - start)).astype(float)


# ---------------------------------------------------------------- classes


class _Counts(NamedTuple):
    """Weighted counts by class, each (draws, classes), over the classes that are predicted or true."""

    classes: Array
    hits: Floats
    predicted: Floats
    true: Floats

    @property
    def f1(self) -> Floats:
        """F1 of every class; 0 for a class that is absent from a draw."""
        total = self.predicted + self.true
        return np.divide(2 * self.hits, total, out=np.zeros_like(total), where=total > 0)


def _count(predicted: Array, target: Array, weights: Floats) -> _Counts:
    classes = np.union1d(predicted, target)
    is_predicted, is_true = (answers[:, None] == classes for answers in (predicted, target))
    hits, predictions, true = (weights @ each.astype(float) for each in (is_predicted & is_true, is_predicted, is_true))
    return _Counts(classes, hits, predictions, true)


def _accuracy(predicted: Array, target: Array, weights: Floats) -> Floats:
    return weights @ (predicted == target) / weights.sum(axis=1)


def _f1(predicted: Array, target: Array, weights: Floats) -> Floats:
    counts = _count(predicted, target, weights)
    return counts.f1[:, counts.classes == 1].sum(axis=1)


def _macro_f1(predicted: Array, target: Array, weights: Floats) -> Floats:
    counts = _count(predicted, target, weights)
    return counts.f1.sum(axis=1) / (counts.predicted + counts.true > 0).sum(axis=1)


def _matthews(predicted: Array, target: Array, weights: Floats) -> Floats:
    """R_K of Gorodkin (2004), which is Matthews' coefficient for two classes."""
    counts = _count(predicted, target, weights)
    n = weights.sum(axis=1)
    covariance = n * counts.hits.sum(axis=1) - (counts.predicted * counts.true).sum(axis=1)
    norm = np.sqrt((n**2 - (counts.predicted**2).sum(axis=1)) * (n**2 - (counts.true**2).sum(axis=1)))
    return np.divide(covariance, norm, out=np.zeros_like(n), where=norm > 0)


# ---------------------------------------------------------------- numbers


def _correlate(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's correlation of x and y, each (kinds,) or (draws, kinds); 0 if one is constant, NaN if one has NaN."""
    n = weights.sum(axis=1)

    def centred(values: Floats) -> tuple[Floats, Floats]:
        deviations = values - (weights * values).sum(axis=1, keepdims=True) / n[:, None]
        return deviations, (weights * deviations**2).sum(axis=1)

    (dx, sxx), (dy, syy) = centred(x), centred(y)
    constant = [spread <= n * (_ROUNDING * np.abs(values).max()) ** 2 for spread, values in ((sxx, x), (syy, y))]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(constant[0] | constant[1], 0.0, (weights * dx * dy).sum(axis=1) / np.sqrt(sxx * syy))


def _pearson(predicted: Array, target: Array, weights: Floats) -> Floats:
    return _correlate(predicted.astype(float), target.astype(float), weights)


def _ranks(values: Array, weights: Floats) -> Floats:
    """The rank of every kind in every draw (draws, kinds), ties averaged; NaN throughout if a value is NaN."""
    if np.isnan(values.astype(float)).any():
        return np.full(weights.shape, np.nan)
    levels, level = np.unique(values, return_inverse=True)
    order = np.argsort(level, kind="stable")
    counts = np.add.reduceat(weights[:, order], np.searchsorted(level[order], np.arange(len(levels))), axis=1)
    return (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, level]


def _spearman(predicted: Array, target: Array, weights: Floats) -> Floats:
    return _correlate(_ranks(predicted, weights), _ranks(target, weights), weights)


# ---------------------------------------------------------------- texts


def _mean_loss(predicted: Array, target: Array, weights: Floats) -> Floats:
    """Losses (examples, 2): the summed loss of each example's learned tokens, and their number."""
    sums = weights @ predicted.astype(float)
    return sums[:, 0] / sums[:, 1]


def _perplexity(predicted: Array, target: Array, weights: Floats) -> Floats:
    return np.exp(_mean_loss(predicted, target, weights))


def _of_texts(name: str, text: str) -> Metric:
    score = TextScore(name)

    def weighted(predicted: Array, target: Array, weights: Floats) -> Floats:
        return score.score(weights @ predicted.astype(float))

    return Metric(name, text, weighted, family="generation", width=score.width)


def _of_spans(name: str, text: str) -> Metric:
    def weighted(predicted: Array, target: Array, weights: Floats) -> Floats:
        sums = weights @ predicted.astype(float)
        return sums[:, 0] / sums[:, 1]

    return Metric(name, text, weighted, family="spans", width=2)


def _of_sums(family: str, name: str, text: str, score: Callable[[Floats, Floats, Floats], Floats]) -> Metric:
    """A metric of three sums: what is right, what was predicted, what is true."""

    def weighted(predicted: Array, target: Array, weights: Floats) -> Floats:
        return score(*(weights @ predicted.astype(float)).T)

    return Metric(name, text, weighted, family=family, width=3)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _f1_of_sums(right: Floats, found: Floats, true: Floats) -> Floats:
    return _share(2 * right, found + true)


def _precision_of_sums(right: Floats, found: Floats, true: Floats) -> Floats:
    return _share(right, found)


def _recall_of_sums(right: Floats, found: Floats, true: Floats) -> Floats:
    return _share(right, true)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "share of right answers", _accuracy, counts_hits=True),
        Metric("f1", "F1 of class 1, as in GLUE for MRPC and QQP", _f1, classes=2),
        Metric("macro_f1", "mean F1 of the classes", _macro_f1),
        Metric("matthews", "Matthews correlation coefficient", _matthews),
        Metric("pearson", "Pearson correlation", _pearson, numbers=True),
        Metric("spearman", "Spearman rank correlation", _spearman, numbers=True),
        Metric(
            "answer_loss",
            "mean loss of the answers' tokens, in nats",
            _mean_loss,
            higher_is_better=False,
            scale=1,
            digits=4,
            family="generation",
            width=2,
        ),
        Metric(
            "perplexity",
            "exp of answer_loss",
            _perplexity,
            higher_is_better=False,
            scale=1,
            digits=3,
            family="generation",
            width=2,
        ),
        _of_texts("exact_match", "share of answers that equal a right one, or whose last number does"),
        _of_texts("rouge1", "ROUGE-1 F1, with stemming"),
        _of_texts("rouge2", "ROUGE-2 F1, with stemming"),
        _of_texts("rougeL", "ROUGE-L F1, with stemming"),
        _of_texts("bleu", "BLEU of sacrebleu, 13a"),
        _of_texts("chrf", "chrF of sacrebleu"),
        _of_sums("tokens", "entity_f1", "F1 of whole entities", _f1_of_sums),
        _of_sums("tokens", "entity_precision", "share of found entities that are right", _precision_of_sums),
        _of_sums("tokens", "entity_recall", "share of true entities that are found", _recall_of_sums),
        _of_sums("tokens", "tag_accuracy", "share of words with the right tag", _recall_of_sums),
        _of_sums("multilabel", "micro_f1", "F1 of all labels together", _f1_of_sums),
        _of_sums("multilabel", "subset_accuracy", "share of examples whose labels are all right", _recall_of_sums),
        _of_spans("squad_f1", "mean F1 of the answers' words, as SQuAD is scored"),
        _of_spans("squad_exact_match", "share of answers that equal a right one, as SQuAD is scored"),
    )
}
