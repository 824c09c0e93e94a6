"""Scores against hand-worked values, and intervals that cover what they should."""

import numpy as np
import pytest

from genft import ConfigError
from genft.training.metrics import METRICS, check_metric, interval, score, scores

PREDICTED, TARGET = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 0, 1])


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


def test_wilson_interval() -> None:
    """8 of 10: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964."""
    predicted = np.array([1] * 8 + [0] * 2)
    assert interval("accuracy", predicted, np.ones(10)) == pytest.approx((0.49016, 0.94331), abs=1e-5)
    low, high = interval("accuracy", np.ones(50), np.ones(50))
    assert high == pytest.approx(1)
    assert 0.92 < low < 0.94


def test_bootstrap_covers_the_truth_nearly_always() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        x = draw.normal(size=60)
        low, high = interval("pearson", 0.6 * x + 0.8 * draw.normal(size=60), x, draws=200)
        covered += low <= 0.6 <= high
    assert 35 <= covered <= 40


def test_a_metric_must_fit_the_answer() -> None:
    for name in METRICS:
        check_metric(name, regression=name in ("pearson", "spearman"))
    with pytest.raises(ConfigError, match="metric: 'pearson' cannot score this task; allowed: accuracy"):
        check_metric("pearson", regression=False)


def test_all_scores_suit_the_answers() -> None:
    classes, numbers = np.array([0, 1, 1, 0]), np.array([0.1, 0.4, 0.3, 0.2])
    assert set(scores(classes, classes, classes=2)) == {"accuracy", "f1", "macro_f1", "matthews"}
    assert set(scores(classes, classes, classes=3)) == {"accuracy", "macro_f1", "matthews"}
    assert set(scores(numbers, numbers, classes=0)) == {"pearson", "spearman"}
