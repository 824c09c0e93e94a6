"""Texts or images that get one class each, or one number each (a regression)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, default_data_collator

from genft.data.encode import PAD_TO, Encoded, encode
from genft.data.files import usual_metric
from genft.data.preprocessing import Preprocessing
from genft.data.task import Split, Task
from genft.errors import ConfigError
from genft.families.class_weights import class_weights, weighted_loss
from genft.families.family import Family, Options, Words, refuse_other_settings
from genft.families.metrics import Array, Metric, metric_for, score_all
from genft.families.predictor import in_order, logits_of, names_of_outputs, refuse_options
from genft.families.standardised import UNSCALED, Scale, output_layer
from genft.models.load import Head, LoadedModel


class Classification(Family):
    """One output per class, or one output in a regression; labels are class numbers, or values.

    Attributes:
        scale: the scale of a regression's targets during training.
    """

    name = "classification"
    kinds = ("text", "image")

    def __init__(self, task: Task, scale: Scale = UNSCALED) -> None:
        super().__init__(task)
        self.scale = scale

    @property
    def usual_values(self) -> dict[str, Any]:
        return {"metric": usual_metric(regression=self.task.regression)}

    def check(self, training: Options) -> None:
        _ = self.metric
        refuse_other_settings(self.task)
        if self.task.regression and training.label_smoothing:
            raise ConfigError("label_smoothing: applies to classes, and this task predicts a number")
        if self.task.regression and training.class_weights != "none":
            raise ConfigError("class_weights: applies to classes, and this task predicts a number")
        class_weights(training.class_weights, self.task.classes)
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
    def words(self) -> Words:
        text = self.reads == "text"
        return Words(
            meaning="a number" if self.task.regression else ", ".join(self.task.classes),
            example='("a text",)' if text else '("image.jpg",)',
            returns="values" if self.task.regression else "probabilities, in the order above",
            labels=self.task.classes or ("value",),
            pipeline="text-classification" if text else None,
        )

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
                **names_of_outputs(labels),
                "problem_type": "regression" if self.task.regression else "single_label_classification",
            },
            task_type="SEQ_CLS" if self.reads == "text" else None,
            purpose=f"classify {self.reads}s",
        )

    def loss(self, train: Split, training: Options) -> Callable[..., torch.Tensor] | None:
        weights = class_weights(training.class_weights, self.task.classes, train.labels)
        return weighted_loss(weights, training.label_smoothing) if weights else None

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

    def predict(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        inputs: Sequence[tuple[str, ...]],
        batch_size: int,
        options: Mapping[str, Any],
    ) -> torch.Tensor:
        """Probabilities (n, classes), or values (n, 1) in a regression, float32."""
        refuse_options(options, self.name)
        data = encode(inputs, None, preprocessing, tokenizer)
        outputs = in_order(logits_of(model, tokenizer, data, batch_size))
        return outputs if self.task.regression else outputs.softmax(dim=1)

    def answer(self, output: Any) -> Mapping[str, Any]:
        if self.task.regression:
            return {"value": float(output[0])}
        best = int(np.argmax(output))
        return {"predicted": self.task.classes[best], "probability": float(output[best])}

    def label_in_words(self, label: Any) -> Any:
        return float(label) if self.task.regression else self.task.classes[int(label)]

    def badness(self, output: Any, label: Any) -> float:
        """The distance from the value; or what the true class lacks of a probability of 1, 0 if it is predicted."""
        if self.task.regression:
            return abs(float(output[0]) - float(label))
        return 0.0 if int(np.argmax(output)) == int(label) else 1.0 - float(output[int(label)])

    def details(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        return {} if self.task.regression else {"probabilities": self._by_class(output)}

    def columns(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        by_class = {} if self.task.regression else self._by_class(output)
        return {f"probability of {name}": p for name, p in by_class.items()}

    def _by_class(self, output: Any) -> dict[str, float]:
        return dict(zip(self.task.classes, map(float, output), strict=True))
