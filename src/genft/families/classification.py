"""Texts or images that get one class each, or one number each (a regression)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import DataCollatorWithPadding, default_data_collator

from genft.data.encode import PAD_TO, Encoded, encode
from genft.data.task import Split, Task
from genft.errors import ConfigError
from genft.families.family import Family, Options
from genft.families.metrics import Array, Metric, metric_for, score_all
from genft.families.standardised import UNSCALED, Scale, output_layer
from genft.models.load import Head, LoadedModel


class Classification(Family):
    """One output per class, or one output in a regression; labels are class numbers, or values.

    Attributes:
        scale: the scale of a regression's targets during training.
    """

    name = "classification"

    def __init__(self, task: Task, scale: Scale = UNSCALED) -> None:
        super().__init__(task)
        self.scale = scale

    def check(self, training: Options) -> None:
        _ = self.metric
        if self.task.regression and training.label_smoothing:
            raise ConfigError("label_smoothing: applies to classes, and this task predicts a number")
        if self.reads == "text" and training.augment != "none":
            raise ConfigError("augment: applies to images, and this task has texts")

    @property
    def metric(self) -> Metric:
        classes = 0 if self.task.regression else len(self.task.classes) or None
        return metric_for(self.task.metric, classes=classes)

    @property
    def answers(self) -> str:
        return "a number" if self.task.regression else f"{len(self.task.classes)} classes"

    @property
    def by_class(self) -> bool:
        return not self.task.regression

    @property
    def head(self) -> Head:
        labels = ["value"] if self.task.regression else list(self.task.classes)
        return Head(
            auto_class="AutoModelForSequenceClassification"
            if self.reads == "text"
            else "AutoModelForImageClassification",
            reads=self.reads,
            config={
                "num_labels": len(labels),
                "id2label": dict(enumerate(labels)),
                "label2id": {label: i for i, label in enumerate(labels)},
                "problem_type": "regression" if self.task.regression else "single_label_classification",
            },
            task_type="SEQ_CLS" if self.reads == "text" else None,
            purpose=f"classify {self.reads}s",
        )

    @property
    def revision(self) -> str | None:
        return "standardised targets" if self.task.regression else None

    def for_training(self, train: Split, loaded: LoadedModel) -> Family:
        last = output_layer(loaded.model, loaded.head) if self.task.regression else None
        if last is None:
            return self
        return Classification(self.task, Scale.of(train.labels, centred=last.bias is not None))

    def finish(self, model: Any, loaded: LoadedModel) -> None:
        last = output_layer(model, loaded.head) if self.scale != UNSCALED else None
        if last is not None:
            self.scale.fold_into(last)

    def encode(
        self, split: Split, loaded: LoadedModel, *, augment: str = "none", several_passes: bool = False
    ) -> Encoded:
        return encode(
            split.inputs,
            self.scale.standardise(split.labels) if self.task.regression else split.labels,
            loaded.preprocessing,
            loaded.tokenizer,
            float if self.task.regression else int,
            augment=augment,
            several_passes=several_passes,
        )

    def collator(self, loaded: LoadedModel) -> Any:
        if self.reads == "image":
            return default_data_collator
        return DataCollatorWithPadding(loaded.tokenizer, pad_to_multiple_of=PAD_TO)

    def predictions(self, outputs: Array) -> Array:
        """The most likely class from logits (n, classes), or the value from (n, 1); (n,)."""
        return self.scale.restore(outputs[:, 0]) if self.task.regression else outputs.argmax(axis=1)

    def targets(self, labels: Array) -> Array:
        return self.scale.restore(labels) if self.task.regression else labels

    def compact(self, answers: Array) -> Array:
        return answers.astype(np.float32 if self.task.regression else np.uint16)

    def scores(self, predicted: Array, target: Array) -> dict[str, float]:
        return score_all(predicted, target, classes=0 if self.task.regression else len(self.task.classes))

    def answer(self, outputs: Sequence[float]) -> Mapping[str, Any]:
        if self.task.regression:
            return {"value": outputs[0]}
        best = int(np.argmax(outputs))
        return {"predicted": self.task.classes[best], "probability": outputs[best]}
