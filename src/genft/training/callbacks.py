"""Callbacks of a training run: progress, the time per step, and stopping when the loss becomes NaN."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genft.data.preprocessing import Preprocessing
from genft.errors import TrainingError
from genft.models.parameters import Counts


@dataclass(frozen=True)
class Progress:
    """One progress report of a run; small, because it is sent between processes.

    Attributes:
        phase: "train" or "evaluate".
        step, steps: the current and the last step of the phase.
        epoch: the metrics of an epoch that has just been evaluated, or None.
    """

    phase: str
    step: int
    steps: int
    epoch: dict[str, float] | None = None


@dataclass(frozen=True)
class Inferred:
    """What was inferred from model, method and data, not set by the user; reported before training begins.

    Attributes:
        targets: the number of adapted modules by the last part of their names: ``{"query": 6}``.
        settings: the method's settings that follow from the model and the number of steps.
        head: paths of the modules that are trained and saved in full.
        counts: numbers of parameters.
        preprocessing: how the model's input is prepared.
        device: the device that the run uses.
        notes: sentences about anything unusual.
    """

    targets: dict[str, int]
    settings: dict[str, Any]
    head: tuple[str, ...]
    counts: Counts
    preprocessing: Preprocessing
    device: str
    notes: tuple[str, ...]


Watch = Callable[[Progress | Inferred], None]


def ignore(event: Progress | Inferred) -> None:
    """A watcher that does nothing."""


class Watcher(TrainerCallback):
    """Forwards progress to ``watch``."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.evaluated = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.watch(Progress("train", state.global_step, state.max_steps))

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        batches = len(kwargs["eval_dataloader"])
        self.evaluated = self.evaluated % batches + 1
        self.watch(Progress("evaluate", self.evaluated, batches))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.evaluated = 0
        epoch = {name.removeprefix("eval_"): value for name, value in kwargs["metrics"].items()}
        self.watch(Progress("train", state.global_step, state.max_steps, epoch))


class Stopwatch(TrainerCallback):
    """Measures the seconds of every optimizer step, without data loading and evaluation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.began = _now(args.device)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seconds.append(_now(args.device) - self.began)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else math.nan


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class StopOnNaN(TrainerCallback):
    """Stops training before the next checkpoint if the loss of a step or of an evaluation is NaN or infinite."""

    def __init__(self) -> None:
        self.last_good = 0

    @property
    def kept(self) -> str:
        """Where training can resume, as a clause for messages."""
        if self.last_good:
            return f"the checkpoint of step {self.last_good} is kept, and training can resume from it"
        return "there is no earlier checkpoint"

    def check(self, loss: torch.Tensor | float, state: TrainerState, learning_rate: float) -> None:
        """Raise :class:`TrainingError`, with the step and what to try, if the loss is not finite."""
        if math.isfinite(float(loss)):
            return
        raise TrainingError(
            f"the loss became {float(loss)} in step {state.global_step + 1} of {state.max_steps}; {self.kept}; "
            f"try a lower learning rate (it was {learning_rate:g})"
        )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.check(kwargs["metrics"]["eval_loss"], state, args.learning_rate)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.last_good = state.global_step
