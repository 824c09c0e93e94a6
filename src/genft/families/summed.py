"""Families whose scores follow from sums of a few numbers per example, and not from one answer per example."""

from __future__ import annotations

import numpy as np

from genft.families.family import Family
from genft.families.metrics import Array


class SummedFamily(Family):
    """A prediction is the numbers that its metric sums (:attr:`~genft.families.metrics.Metric.width`), what is right
    already counted in; so there are no targets besides."""

    @property
    def by_class(self) -> bool:
        return False

    def predictions(self, outputs: Array) -> Array:
        return outputs

    def targets(self, labels: Array) -> Array:
        return np.zeros(len(labels))

    def compact(self, answers: Array) -> Array:
        return answers.astype(np.float32)

    def scores(self, predicted: Array, target: Array) -> dict[str, float]:
        return {self.metric.name: self.metric.score(predicted, target)}
