"""What watches a training run: progress, time per step, and the end when the loss is no number any more."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genft.errors import TrainingError
from genft.models.load import Preprocessing


@dataclass(frozen=True)
class Progress:
    """One report of a run to whoever watches it; small, so that it can cross processes.

    Attributes:
        phase: "train", "evaluate" or "predict".
        step, steps: within the phase.
        epoch: metrics of an epoch that has just been evaluated, otherwise empty.
    """

    phase: str
    step: int
    steps: int
    epoch: dict[str, float] | None = None


@dataclass(frozen=True)
class Inferred:
    """What was worked out from model, method and data, and that nobody said: reported before training begins.

    Attributes:
        targets: the adapted modules by the end of their names, with how many there are: ``{"query": 6}``.
        settings: of the method, what model and steps decided.
        head: modules that are trained and saved in full.
        adapter_parameters, head_parameters, total_parameters: counted.
        notes: sentences about what is unusual.
    """

    targets: dict[str, int]
    settings: dict[str, Any]
    head: tuple[str, ...]
    adapter_parameters: int
    head_parameters: int
    total_parameters: int
    preprocessing: Preprocessing
    device: str
    notes: tuple[str, ...]


Watch = Callable[[Progress | Inferred], None]


def ignore(event: Progress | Inferred) -> None:
    """Nobody watches."""


class Watcher(TrainerCallback):
    """Passes progress on to ``watch``."""

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
    """Seconds of every optimizer step, data loading and evaluation not included."""

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
    """Ends training when the loss of a step or of an evaluation is NaN or infinite, before anything is saved."""

    def __init__(self) -> None:
        self.last_good = 0

    @property
    def kept(self) -> str:
        """From where training can go on, in words."""
        if self.last_good:
            return f"the checkpoint of step {self.last_good} is kept and training can go on from it"
        return "there is no earlier checkpoint"

    def check(self, loss: torch.Tensor | float, state: TrainerState, learning_rate: float) -> None:
        """Raise :class:`TrainingError` with the step and what to try; the last checkpoint stays where it is."""
        if math.isfinite(float(loss)):
            return
        raise TrainingError(
            f"the loss became {float(loss)} in step {state.global_step + 1} of {state.max_steps}; {self.kept}; "
            f"try a lower learning rate (it is {learning_rate:g})"
        )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.check(kwargs["metrics"]["eval_loss"], state, args.learning_rate)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.last_good = state.global_step
