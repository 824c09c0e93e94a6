"""Weights of classes in the cross-entropy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from genft.errors import ConfigError, not_one_of


def class_weights(text: str, classes: Sequence[str], labels: Sequence[float] = ()) -> list[float] | None:
    """The weight of every class, or None if all weigh the same.

    Args:
        text: none; balanced: n / (k · n_c) for class c of k, so that the weights of the n examples average 1; or
            numbers such as ``good=1,bad=2.5``, where other classes weigh 1.
        classes: the classes in order; empty if they are not known yet.
        labels: the class numbers of the training examples, for ``balanced``.

    Raises:
        ConfigError: the text is none of these, or names another class.
    """
    if text == "none":
        return None
    if text == "balanced":
        counts = Counter(map(int, labels))
        return [len(labels) / (len(classes) * counts[c]) if counts[c] else 1.0 for c in range(len(classes))]
    weights = dict.fromkeys(classes, 1.0)
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.rpartition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 <= weight < math.inf:
            raise ConfigError(f"class_weights: {part!r} is not CLASS=NUMBER; allowed: none, balanced, good=1,bad=2.5")
        if classes and name not in weights:
            raise ConfigError(not_one_of("class_weights", name, classes, what="is no class"))
        weights[name] = weight
    return list(weights.values())


def weighted_loss(weights: Sequence[float], label_smoothing: float) -> Callable[..., Tensor]:
    """The cross-entropy with weights, as ``Trainer`` calls it.

    It is the sum of weighted losses, divided by the number of examples in the whole batch and not by the sum of their
    weights, so that a rare class weighs the same in every batch.
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"]
        weight = torch.tensor(weights, dtype=logits.dtype, device=logits.device)
        total = cross_entropy(logits, labels, weight, reduction="sum", label_smoothing=label_smoothing)
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss
