"""A model with a method attached: trained, scored, and freed."""

from __future__ import annotations

import gc
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import EvalPrediction, TrainerCallback, set_seed

from genft.bridge.layer import derived_settings
from genft.data import Split
from genft.data.encode import Encoded
from genft.errors import ConfigError
from genft.families.family import Family, Judged
from genft.families.metrics import Metric, same_for_all
from genft.models.load import LoadedModel
from genft.models.parameters import count_parameters, trained_modules
from genft.runs.measured import History, Scores
from genft.runs.store import pack
from genft.training import ranks
from genft.training.arguments import training_arguments
from genft.training.attach import attach, targeted
from genft.training.callbacks import Inferred, Stopwatch, Watch, Watcher, ignore
from genft.training.loop import Loop
from genft.training.prepared import PreparedRun
from genft.training.samplers import longest_first
from genft.training.schedule import EarlyStopping, EveryFew


@dataclass(frozen=True)
class Fitted:
    """What training measured: how it went, the median seconds of a step, and what the method's recipe found: settings
    with which training starts again."""

    history: History
    seconds_per_step: float
    found: Mapping[str, Any] = field(default_factory=dict)

    def then(self, second: Fitted) -> Fitted:
        """Combine with a second training run, up to the epoch that this one selected."""
        history = self.history.model_copy(
            update={
                "steps": self.history.steps + second.history.steps,
                "resumed_at": self.history.resumed_at + second.history.resumed_at,
            }
        )
        return Fitted(history, second.seconds_per_step)

    def replaced_by(self, again: Fitted) -> Fitted:
        """``again``, which started anew with what this one found; the steps of both count."""
        steps, resumed_at = self.history.steps + again.history.steps, self.history.resumed_at + again.history.resumed_at
        history = again.history.model_copy(update={"steps": steps, "resumed_at": resumed_at})
        return replace(again, history=history)


@dataclass(frozen=True)
class Scored:
    """The measurements on the reporting split: scores, and packed predictions and targets."""

    scores: Scores
    predictions: str
    targets: str


class Session:
    """The base model of a run with the method attached, initialised from the run's seed.

    Attributes:
        loaded: the base model with its head.
        model: the base model with the method attached.
        inferred: what was inferred from model, method and data.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        train: Split | None = None,
        watch: Watch = ignore,
        reported: Family | None = None,
        found: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            prepared: the run.
            train: the examples to train on; by default, those that the protocol assigns.
            watch: called with progress.
            reported: how the trained model is scored and saved; by default as prepared.
            found: settings that the method's recipe found in an earlier training of this run.
        """
        self.prepared, self.watch, self.reported = prepared, watch, reported or prepared.family
        self.train = train or prepared.roles.train
        set_seed(prepared.spec.seed)
        training = prepared.training
        self.loaded = prepared.family.load(
            prepared.source,
            image_size=training.image_size,
            drop_path=training.drop_path,
            imagenet=training.normalise == "imagenet",
            crop=training.augment == "crop",
            quantise=training.quantise,
        )
        if training.gradient_checkpointing and not self.loaded.model.supports_gradient_checkpointing:
            raise ConfigError(f"gradient_checkpointing: {type(self.loaded.model).__name__} does not support it")
        #: how it learns; once trained, the model predicts what ``prepared.family`` reports
        self.family = prepared.family.for_training(self.train, self.loaded)
        method, settings = prepared.method, prepared.spec.settings
        steps = training.epochs * self.steps_per_epoch
        following = method.recipe.settings(self.loaded.model, steps, self.loaded.preprocessing.image_size)
        following = {name: value for name, value in following.items() if name not in settings}
        examples = partial(_examples, prepared, self.loaded)
        self.losses = partial(_losses, self.train, prepared.spec.seed, self.family, self.loaded)
        self.model = attach(self.loaded, method, {**settings, **following, **(found or {})}, examples, self.losses)
        self.inferred = Inferred(
            targets=dict(Counter(name.rpartition(".")[2] for name in targeted(self.model))),
            settings=following | derived_settings(self.model, "default"),
            head=trained_modules(self.model, self.loaded.trained_in_full),
            counts=count_parameters(self.model, self.loaded.trained_in_full),
            preprocessing=self.loaded.preprocessing,
            device=_device(),
            notes=(*self.loaded.notes, *_pooler_notes(self.model, self.loaded), *_found_notes(found or {})),
        )

    @cached_property
    def examples(self) -> Encoded:
        """The encoded training examples."""
        return self.family.encode(self.train, self.loaded, augment=self.prepared.training.augment, several_passes=True)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        if self.family.splits_inputs:
            return -(-len(self.examples) // self.prepared.training.batch_size)
        return self.prepared.steps_per_epoch(self.train)

    @property
    def announced(self) -> Inferred:
        """What was inferred, with what became of the examples when they were encoded."""
        return replace(self.inferred, notes=(*self.inferred.notes, *self.examples.notes))

    def fit(
        self,
        select: Split | None,
        checkpoints: Path,
        trackers: Sequence[TrainerCallback] = (),
        stop_after: int | None = None,
    ) -> Fitted:
        """Train to the best epoch on ``select``, resuming from the newest of ``checkpoints`` if there is any.

        Args:
            select: evaluated every few epochs, as the protocol specifies, and after the last; None keeps the last.
            checkpoints: the folder for checkpoints.
            trackers: callbacks of experiment trackers.
            stop_after: the epoch after which to stop; the schedule still covers all epochs.

        Raises:
            TrainingError: the loss became NaN, a checkpoint cannot be written, or the GPU's memory is too small.
        """
        prepared, stopwatch, metric = self.prepared, Stopwatch(), self.prepared.family.selects
        callbacks = [
            Watcher(self.watch),
            stopwatch,
            *prepared.method.recipe.callbacks(self.model),
            EveryFew(prepared.protocol.every),
            *([EarlyStopping(patience, metric)] if (patience := prepared.training.early_stopping) and select else []),
            *trackers,
        ]
        self.loop = self._make_loop(select, checkpoints, callbacks, stop_after)
        if (
            not ranks.is_first()
        ):  # so that every process has its own dropout; the order of the examples has a separate generator
            set_seed(prepared.spec.seed + ranks.rank())
        resumed_at = self.loop.train_or_resume(checkpoints)
        found = self._found()  # before the family finishes the head, which then no longer fits the loss
        self.family.finish(self.model, self.loaded)
        epochs = _epochs(self.loop.state.log_history, metric)
        best = _best(epochs, metric) or stop_after or prepared.training.epochs
        history = History(
            epochs=epochs,
            best_epoch=best,
            steps=self.loop.state.global_step,
            resumed_at=resumed_at,
            selected_by=None if metric.name == prepared.family.metric.name else metric.name,
        )
        return Fitted(history, stopwatch.median, found)

    def _found(self) -> dict[str, Any]:
        """Settings that the method's recipe finds in the trained model."""
        if not isinstance(self.model, PeftModel):
            return {}
        config = self.model.active_peft_config
        return ranks.share(self.prepared.method.recipe.found_after_training(self.model.eval(), config, self.losses))

    def _make_loop(
        self, select: Split | None, checkpoints: Path, callbacks: list[TrainerCallback], stop_after: int | None
    ) -> Loop:
        prepared, training, family = self.prepared, self.prepared.training, self.family
        selecting = None if select is None else family.encode(select, self.loaded, several_passes=True)
        return Loop(
            self.examples,
            self.loaded.trained_in_full,
            training,
            prepared.method.recipe,
            model=self.model,
            args=training_arguments(
                training,
                family.selects,
                prepared.spec.seed,
                checkpoints,
                evaluates=selecting is not None,
                name=prepared.name,
                max_steps=stop_after * self.steps_per_epoch if stop_after else -1,
            ),
            eval_dataset=None if selecting is None else longest_first(selecting)[0],
            data_collator=family.collator(self.loaded),
            compute_metrics=None if selecting is None else partial(self._selecting_score, selecting),
            compute_loss_func=family.loss(self.train, training),
            preprocess_logits_for_metrics=family.kept_outputs,
            callbacks=callbacks,
        )

    def decide(self, select: Split) -> Family:
        """Decide what the family decides on the selecting split. The model must have been trained."""
        self.reported = self.reported.decided(select, self.loaded, self.loop.predict_arrays)
        return self.reported

    def score(self) -> Scored:
        """Score the reporting split and any further splits. The model must have been trained."""
        family, metric = self.reported, self.reported.metric
        judged = self._judge(self.prepared.roles.report)
        metrics = dict(judged.scores)
        for name, split in self.prepared.roles.also.items():
            metrics |= {f"{key} ({name})": value for key, value in self._judge(split).scores.items()}
        scores = Scores(
            metric=metric.name,
            value=metrics[metric.name],
            metrics=metrics,
            interval=metric.interval(judged.predicted, judged.target),
            constant=same_for_all(judged.predicted, judged.target),
        )
        return Scored(scores, pack(family.compact(judged.predicted)), pack(family.compact(judged.target)))

    def close(self) -> None:
        """Free the model, which is part of reference cycles with its trainer."""
        self.__dict__.pop("examples", None)
        del self.loop, self.model, self.loaded, self.losses
        gc.collect()

    def _judge(self, split: Split) -> Judged:
        training = self.prepared.training
        return self.reported.judge(split, self.loaded, self.model, training, self.loop.predict_arrays)

    def _selecting_score(self, data: Encoded, outcome: EvalPrediction) -> dict[str, float]:
        back = np.argsort(longest_first(data)[1])
        outputs, labels = (np.asarray(array)[back] for array in (outcome.predictions, outcome.label_ids))
        return {self.family.selects.name: self.family.selecting_score(outputs, labels, data)}


def _pooler_notes(model: torch.nn.Module, loaded: LoadedModel) -> list[str]:
    """What becomes of a pooler that sentence-transformers left untrained."""
    trained = trained_modules(model, loaded.untrained)
    return [
        f"{name}: in the checkpoint but never trained, since sentence-transformers pools the tokens itself; "
        + ("so trained and saved like the head" if name in trained else "this method leaves it frozen")
        for name in loaded.untrained
    ]


def _found_notes(found: Mapping[str, Any]) -> list[str]:
    """What this training does with what an earlier one found."""
    return [f"trains from the start again, with {', '.join(found)} as found in the trained model"] if found else []


def _epochs(log: Sequence[Mapping[str, float]], metric: Metric) -> list[dict[str, float]]:
    """For each evaluation: the epoch, metric and loss on the selection split, and the training loss."""
    losses = {round(entry["epoch"]): entry["loss"] for entry in log if "loss" in entry}
    return [
        {
            "epoch": round(entry["epoch"]),
            metric.name: entry[f"eval_{metric.name}"],
            "loss": entry["eval_loss"],
            "train_loss": losses[round(entry["epoch"])],
        }
        for entry in log
        if f"eval_{metric.name}" in entry
    ]


def _best(epochs: Sequence[Mapping[str, float]], metric: Metric) -> int | None:
    """The epoch with the best metric, the first of equals as in Trainer; None if nothing was evaluated."""
    choose = max if metric.higher_is_better else min
    best = choose(epochs, key=lambda entry: entry[metric.name], default=None)
    return int(best["epoch"]) if best else None


def _examples(prepared: PreparedRun, loaded: LoadedModel, n: int) -> Iterator[dict[str, Any]]:
    """``n`` training examples drawn with the run's seed, one model input at a time."""
    data = prepared.family.encode(_drawn(prepared.roles.train, prepared.spec.seed, n), loaded)
    for i in range(len(data)):
        yield prepared.family.model_input(data[i])


def _drawn(train: Split, seed: int, n: int) -> Split:
    """At most ``n`` examples, drawn with ``seed``."""
    return train.take(np.random.default_rng(seed).permutation(len(train))[:n])


def _losses(train: Split, seed: int, family: Family, loaded: LoadedModel, n: int, size: int) -> Iterator[torch.Tensor]:
    """The training loss of ``n`` batches of ``size`` examples drawn with the run's seed; fewer if the examples end."""
    data = family.encode(_drawn(train, seed, n * size), loaded)
    collate, model = family.collator(loaded), loaded.model
    for start in range(0, len(data), size):
        batch = collate([data[i] for i in range(start, min(start + size, len(data)))])
        yield family.run(model, {name: value.to(model.device) for name, value in batch.items()})[0]


def _device() -> str:
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        name = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return name if ranks.count() == 1 else f"{ranks.count()} × {name}"
