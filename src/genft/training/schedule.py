"""The learning-rate schedule of a run, and the epochs after which it is evaluated."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genft.families.metrics import Metric
from genft.runs.settings import Training


def learning_rate(training: Training, peak: float, step: int, steps_per_epoch: int) -> float:
    """The rate of optimizer step ``step`` (from 0) for parameters whose peak rate is ``peak``.

    A linear rise from ``first_learning_rate``, then the decay to ``last_learning_rate``. "timm-cosine" is timm's
    CosineLRScheduler as used by the V-PETL recipe: constant within an epoch, with a cosine that begins with the
    warm-up, so that a small step down follows the warm-up.
    """
    now, end = step, training.epochs * steps_per_epoch
    rise = start = math.ceil(training.warmup * end)
    if training.schedule == "timm-cosine":
        now, end, rise, start = step // steps_per_epoch, training.epochs, round(training.warmup * training.epochs), 0
    first, last = training.first_learning_rate, training.last_learning_rate
    if now < rise:
        return first + (peak - first) * now / rise
    done = (now - start) / max(1, end - start)
    left = {"constant": 1.0, "linear": 1 - done}.get(training.schedule, (1 + math.cos(math.pi * done)) / 2)
    return last + (peak - last) * left


class EarlyStopping(TrainerCallback):
    """Stops after ``patience`` evaluations in a row without a better score.

    They are counted in the log, which checkpoints contain, so that a resumed run stops where an uninterrupted one does.
    """

    def __init__(self, patience: int, metric: Metric) -> None:
        self.patience, self.metric = patience, metric

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        scores = [entry[name] for entry in state.log_history if (name := f"eval_{self.metric.name}") in entry]
        best = scores.index(max(scores) if self.metric.higher_is_better else min(scores))
        control.should_training_stop |= len(scores) - 1 - best >= self.patience


class EveryFew(TrainerCallback):
    """Evaluates and saves after every ``every`` epochs, and after the last."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if round(state.epoch or 0) % self.every and state.global_step < state.max_steps:
            control.should_evaluate = control.should_save = False
