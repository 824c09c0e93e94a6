"""The learning rate over a run."""

from __future__ import annotations

import math

from genft.runs.spec import Training


def learning_rate(training: Training, highest: float, step: int, steps_per_epoch: int) -> float:
    """The rate of optimizer step ``step`` (from 0) for parameters whose highest rate is ``highest``.

    A linear rise from ``first_learning_rate``, then the decay to ``last_learning_rate``. "timm-cosine" is timm's
    CosineLRScheduler as the V-PETL recipe uses it: constant within an epoch, and its cosine begins with the warm-up, so
    that a small step down follows it.
    """
    now, end = step, training.epochs * steps_per_epoch
    rise = start = math.ceil(training.warmup * end)
    if training.schedule == "timm-cosine":
        now, end, rise, start = step // steps_per_epoch, training.epochs, round(training.warmup * training.epochs), 0
    first, last = training.first_learning_rate, training.last_learning_rate
    if now < rise:
        return first + (highest - first) * now / rise
    done = (now - start) / max(1, end - start)
    left = {"constant": 1.0, "linear": 1 - done}.get(training.schedule, (1 + math.cos(math.pi * done)) / 2)
    return last + (highest - last) * left
