"""Texts that get any number of labels: one yes or no per class.

A label is given if its probability is above a half. The epoch is selected by the reported metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding

from genft.data.encode import PAD_TO, Encoded, TextDataset
from genft.data.own_table import OwnTable
from genft.data.preprocessing import Preprocessing
from genft.data.several import has_lists
from genft.data.task import Split, Task
from genft.errors import ConfigError, not_one_of
from genft.families.family import Evaluate, Judged, Options, Words, refuse_other_settings
from genft.families.metrics import METRICS, Array, Metric, metrics_of
from genft.families.predictor import in_order, logits_of, names_of_outputs, refuse_options
from genft.families.summed import SummedFamily
from genft.models.load import Head, LoadedModel


class MultiLabel(SummedFamily):
    """One output per class; an example's label is the tuple of its classes' names."""

    name = "multilabel"

    @classmethod
    def of_file(cls, task: Task, file: OwnTable) -> Task | None:
        if file.certain and not has_lists(file, task.label_column):
            return None
        return task.model_copy(update={"family": cls.name, "reader": "several"})

    @property
    def usual_values(self) -> dict[str, Any]:
        return {"metric": "micro_f1"}

    def check(self, training: Options) -> None:
        _ = self.metric
        refuse_other_settings(self.task)
        if self.task.regression:
            raise ConfigError("regression: predicts one number, and this task gives several labels")
        for name, plain in (("class_weights", "none"), ("label_smoothing", 0.0), ("augment", "none")):
            if getattr(training, name) != plain:
                raise ConfigError(f"{name}: does not apply to several labels per text; leave it out")

    @property
    def metric(self) -> Metric:
        known = metrics_of(self.name)
        if self.task.metric not in known:
            raise ConfigError(not_one_of("metric", self.task.metric, known, what="cannot score several labels"))
        return known[self.task.metric]

    @property
    def answers(self) -> str:
        return f"any of {len(self.task.classes)} labels"

    @property
    def words(self) -> Words:
        return Words(
            meaning=f"any of {', '.join(self.task.classes)}",
            example='("a text",)',
            returns="probabilities of each label, in the order above",
            labels=self.task.classes,
            pipeline="text-classification",
        )

    @property
    def head(self) -> Head:
        config = {**names_of_outputs(self.task.classes), "problem_type": "multi_label_classification"}
        return Head("AutoModelForSequenceClassification", "text", config, "SEQ_CLS", "classify texts")

    # ---------------------------------------------------------------- examples

    def encode(
        self, split: Split, loaded: LoadedModel, *, augment: str = "none", several_passes: bool = False
    ) -> Encoded:
        yes = self._yes(split.labels).astype(float).tolist()
        return TextDataset(split.inputs, yes, loaded.tokenizer, loaded.preprocessing, list)

    def _yes(self, labels: Sequence[Sequence[str]]) -> Array:
        """Whether each class is among each example's labels, (n, classes)."""
        return np.array([[name in label for name in self.task.classes] for label in labels])

    def collator(self, loaded: LoadedModel) -> Any:
        return DataCollatorWithPadding(loaded.tokenizer, pad_to_multiple_of=PAD_TO)

    # ---------------------------------------------------------------- predictions

    def selecting_score(self, outputs: Array, labels: Array, data: Encoded) -> float:
        counted = _counts(self.metric.name, outputs, labels)
        return self.metric.score(counted, self.targets(counted))

    def judge(self, split: Split, loaded: LoadedModel, model: Any, training: Options, evaluate: Evaluate) -> Judged:
        from sklearn.metrics import f1_score

        outputs, _ = evaluate(self.encode(split, loaded))
        true = self._yes(split.labels)
        counted = {name: _counts(name, outputs, true) for name in metrics_of(self.name)}
        target = self.targets(true)
        scores = {name: METRICS[name].score(of, target) for name, of in counted.items()}
        macro = f1_score(true, np.greater(outputs, 0), average="macro", zero_division=0)
        return Judged(counted[self.metric.name], target, {**scores, "macro F1 of the labels": float(macro)})

    # ---------------------------------------------------------------- use

    def predict(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        inputs: Sequence[tuple[str, ...]],
        batch_size: int,
        options: Mapping[str, Any],
    ) -> torch.Tensor:
        """The probability of every label, (n, classes), float32."""
        refuse_options(options, self.name)
        data = TextDataset(inputs, None, tokenizer, preprocessing)
        return in_order(logits_of(model, tokenizer, data, batch_size)).sigmoid()

    def answer(self, output: Any) -> Mapping[str, Any]:
        return {"labels": "; ".join(self._given(output))}

    def _given(self, output: Any) -> list[str]:
        return [name for name, p in zip(self.task.classes, output, strict=True) if float(p) > 0.5]

    def label_in_words(self, label: Any) -> Any:
        return "; ".join(label)

    def badness(self, output: Any, label: Any) -> float:
        """The share of given and right labels that are not both."""
        given, right = set(self._given(output)), set(label)
        return 1 - len(given & right) / len(given | right) if given | right else 0.0

    def details(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        return {"probabilities": dict(zip(self.task.classes, map(float, output), strict=True))}

    def columns(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        return {f"probability of {name}": float(p) for name, p in zip(self.task.classes, output, strict=True)}


def _counts(metric: str, logits: Array, true: Array) -> Array:
    """(right, given, true) of every example: labels, or for subset_accuracy whole examples."""
    given, true = np.greater(logits, 0), np.greater(true, 0)
    if metric == "subset_accuracy":
        right = (given == true).all(axis=1)
        return np.stack([right, np.ones(len(right)), np.ones(len(right))], axis=1).astype(float)
    return np.stack([np.logical_and(given, true).sum(1), given.sum(1), true.sum(1)], axis=1).astype(float)
