"""Scores against hand-worked values, scikit-learn and SciPy; intervals that cover what they should."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from genft import ConfigError
from genft.families.metrics import METRICS, distinct, metric_for, metrics_of, resample, score_all

PREDICTED, TARGET = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 0, 1])

#: (target, predicted) → score, by the libraries.
LIBRARY: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": lambda target, predicted: sklearn_metrics.f1_score(target, predicted, zero_division=0.0),
    "macro_f1": lambda target, predicted: sklearn_metrics.f1_score(
        target, predicted, average="macro", zero_division=0.0
    ),
    "matthews": sklearn_metrics.matthews_corrcoef,
    "pearson": lambda target, predicted: stats.pearsonr(target, predicted).statistic,
    "spearman": lambda target, predicted: stats.spearmanr(target, predicted).statistic,
}


def score(name: str, predicted: Any, target: Any) -> float:
    return METRICS[name].score(predicted, target)


def answers(name: str, seed: int) -> tuple[Any, Any]:
    """Random (predicted, target) of random size, with ties, classes that only one of them has, and gaps."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 200))
    if METRICS[name].numbers:
        target = rng.integers(0, 11, n) / 2
        target[0] += 0.5  # not all equal
        return target * rng.normal() + rng.normal(0, 2, n).round(int(rng.integers(0, 3))), target
    classes = METRICS[name].classes or int(rng.integers(2, 40))
    target = rng.integers(0, classes, n)
    return np.where(rng.random(n) < 0.6, target, rng.integers(0, classes, n)), target


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.filterwarnings("ignore")  # of scikit-learn, about cases with one class
def test_a_metric_is_that_of_the_library(name: str) -> None:
    for seed in range(60):
        predicted, target = answers(name, seed)
        assert score(name, predicted, target) == pytest.approx(LIBRARY[name](target, predicted), abs=1e-12)
        assert score(name, target, target) == pytest.approx(LIBRARY[name](target, target), abs=1e-12)


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.filterwarnings("ignore")
def test_a_weight_counts_an_example_several_times(name: str) -> None:
    for seed in range(10):
        predicted, target = answers(name, seed)
        n = len(target)
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), 20)
        for got, counts in zip(METRICS[name].weighted(predicted, target, weights.astype(float)), weights, strict=True):
            repeated = target.repeat(counts), predicted.repeat(counts)
            if METRICS[name].numbers and min(map(np.ptp, repeated)) == 0:
                assert got == 0
            else:
                assert got == pytest.approx(LIBRARY[name](*repeated), abs=1e-9)


def test_losses_are_averaged_over_tokens() -> None:
    losses, target = np.array([[6.0, 3], [2.0, 1], [0.0, 4]]), np.zeros(3)
    assert score("answer_loss", losses, target) == 1
    assert score("perplexity", losses, target) == pytest.approx(np.e)
    weights = np.array([[2.0, 0, 1]])
    assert METRICS["answer_loss"].weighted(losses, target, weights).tolist() == [12 / 10]
    assert METRICS["answer_loss"].better(0.9, 1.0)
    low, high = METRICS["answer_loss"].interval(losses.repeat(20, axis=0), np.zeros(60))
    assert 0.6 < low < 1 < high < 1.5


def test_every_metric_belongs_to_a_family_and_is_tested() -> None:
    assert metrics_of("classification").keys() == LIBRARY.keys()
    assert all(not metric.fits(classes) for metric in metrics_of("generation").values() for classes in (None, 0, 2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 0.8),
        ("f1", 0.8),  # precision 2/3, recall 1
        ("macro_f1", 0.8),  # class 0: precision 1, recall 2/3
        ("matthews", 4 / 6),  # (2·2 − 1·0) / √(3·2·3·2)
    ],
)
def test_classification(name: str, value: float) -> None:
    assert score(name, PREDICTED, TARGET) == pytest.approx(value)


def test_correlations() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert score("pearson", x, 3 - 2 * x) == pytest.approx(-1)
    assert score("spearman", x, np.exp(x)) == pytest.approx(1)
    assert score("pearson", np.ones(4), x) == 0
    assert score("pearson", np.full(4, 0.1, dtype=np.float32), x) == 0
    assert score("pearson", 1e-9 * x, x) == pytest.approx(1)  # small, but not constant
    assert score("spearman", np.ones(4), x) == 0


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_nan_is_no_score(name: str) -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert np.isnan(score(name, np.array([1.0, np.nan, 3.0, 4.0]), x))


def test_wilson_interval() -> None:
    """8 of 10: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964."""
    interval = METRICS["accuracy"].interval
    predicted = np.array([1] * 8 + [0] * 2)
    assert interval(predicted, np.ones(10)) == pytest.approx((0.49016, 0.94331), abs=1e-5)
    low, high = interval(np.ones(50), np.ones(50))
    assert high == pytest.approx(1)
    assert 0.92 < low < 0.94


def test_bootstrap_covers_the_truth_nearly_always() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        x = draw.normal(size=60)
        low, high = METRICS["pearson"].interval(0.6 * x + 0.8 * draw.normal(size=60), x, draws=200)
        covered += low <= 0.6 <= high
    assert 35 <= covered <= 40


def test_draws_hold_as_many_examples_as_there_are() -> None:
    kinds, counts = distinct(np.array([0, 1, 1, 0, 1]), np.array([0, 0, 1, 0, 1]))
    assert np.stack(kinds, axis=1).tolist() == [[0, 0], [1, 0], [1, 1]]
    assert counts.tolist() == [2, 1, 2]
    (weights,) = resample(counts, 1000, np.random.default_rng(0))
    assert weights.shape == (1000, 3)
    assert (weights.sum(axis=1) == 5).all()
    assert weights.mean(axis=0) == pytest.approx([2, 1, 2], abs=0.1)


def test_a_metric_must_fit_the_answer() -> None:
    for metric in metrics_of("classification").values():
        assert metric_for(metric.name, classes=0 if metric.numbers else 2) is metric
    sentence = r"metric: 'pearson' cannot score this task \(it scores numbers\); allowed: accuracy"
    with pytest.raises(ConfigError, match=sentence):
        metric_for("pearson", classes=None)
    with pytest.raises(ConfigError, match=r"'accuracy' cannot score this task; allowed: pearson, spearman$"):
        metric_for("accuracy", classes=0)


def test_a_metric_for_two_classes_is_neither_taken_nor_recommended_for_three() -> None:
    assert metric_for("f1", classes=None).name == "f1"  # the classes are not known yet
    with pytest.raises(ConfigError, match=r"'f1' .*\(it needs 2 classes\); allowed: accuracy, macro_f1, matthews$"):
        metric_for("f1", classes=3)
    with pytest.raises(ConfigError, match="nearest: 'f1'"):
        metric_for("f2", classes=2)
    with pytest.raises(ConfigError, match="allowed: accuracy, macro_f1, matthews") as raised:
        metric_for("f2", classes=3)
    assert "'f1'" not in str(raised.value)


def test_all_scores_suit_the_answers() -> None:
    classes, numbers = np.array([0, 1, 1, 0]), np.array([0.1, 0.4, 0.3, 0.2])
    assert set(score_all(classes, classes, classes=2)) == {"accuracy", "f1", "macro_f1", "matthews"}
    assert set(score_all(classes, classes, classes=3)) == {"accuracy", "macro_f1", "matthews"}
    assert set(score_all(numbers, numbers, classes=0)) == {"pearson", "spearman"}
