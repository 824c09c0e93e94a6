"""Scores of a saved adapter on labelled examples, through the family of its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from genft.adapters.saved import Trained
from genft.data import Split
from genft.data.encode import Encoded, longest_first
from genft.errors import ConfigError
from genft.families.family import Family, Judged, Options
from genft.families.metrics import Array


@dataclass(frozen=True)
class OfClass:
    """How well one class is recognised; a share without examples to count is NaN."""

    name: str
    examples: int
    precision: float
    recall: float
    f1: float


def evaluate(trained: Trained, family: Family, split: Split, options: Options) -> Judged:
    """Predict and score ``split``.

    Args:
        trained: the adapter on its base.
        family: the family of the task, with the metric to report.
        split: labelled examples.
        options: the batch size, and the precision of generating.
    """
    device = next(trained.model.parameters()).device
    collate = family.collator(trained.loaded)

    def outputs_of(data: Encoded) -> tuple[Array, Array]:
        order = longest_first(data.lengths)
        outputs, labels = [], []
        for start in range(0, len(order), options.eval_batch_size):
            items = [data[i] for i in order[start : start + options.eval_batch_size]]
            batch = {name: value.to(device) for name, value in collate(items).items()}
            with torch.inference_mode():
                _, answered = family.run(trained.model, batch)
            kept = family.kept_outputs(answered, batch["labels"])
            outputs += list(kept.float().cpu().numpy())
            labels += list(batch["labels"].cpu().numpy())
        back = np.argsort(order)
        of_labels = [labels[k] for k in back]
        same = len({np.shape(label) for label in of_labels}) == 1
        return np.stack(outputs)[back], np.stack(of_labels) if same else np.zeros(len(order))

    return family.judge(split, trained.loaded, trained.model, options, outputs_of)


@dataclass(frozen=True)
class Forgetting:
    """The loss on texts that have nothing to do with the task, with the adapter and without it, as peft's comparison of
    methods on MetaMathQA measures what an adapter makes its base forget."""

    metric: str
    examples: int
    adapted: float
    base: float

    @property
    def rise(self) -> float:
        return self.adapted - self.base


def forgetting(trained: Trained, family: Family, split: Split, options: Options) -> Forgetting:
    """How much the adapter raises the loss on ``split``, texts that have nothing to do with its task.

    Raises:
        ConfigError: without the adapter the model has no trained head.
    """

    def loss() -> float:
        return evaluate(trained, family, split, options).scores[family.metric.name]

    with without_adapter(trained, family, "--forgetting"):
        base = loss()
    return Forgetting(family.metric.name, len(split), adapted=loss(), base=base)


def without_adapter(trained: Trained, family: Family, option: str) -> Any:
    """A context in which the model is its base.

    Raises:
        ConfigError: naming ``option``; the base has no trained head.
    """
    if family.head.new or not isinstance(trained.model, PeftModel):
        raise ConfigError(
            f"{option}: without the adapter this model has no trained head, so it cannot predict anything"
        )
    return trained.model.disable_adapter()


def confusion(judged: Judged, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): rows are the labels, columns the predictions."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (judged.target.astype(int), judged.predicted.astype(int)), 1)
    return counts


def by_class(counts: NDArray[np.int64], names: tuple[str, ...]) -> list[OfClass]:
    """Precision, recall and F1 of every class, from a confusion matrix."""
    rows = []
    for k, name in enumerate(names):
        right, predicted, true = int(counts[k, k]), int(counts[:, k].sum()), int(counts[k].sum())
        both = predicted + true
        rows.append(
            OfClass(
                name,
                true,
                right / predicted if predicted else float("nan"),
                right / true if true else float("nan"),
                2 * right / both if both else float("nan"),
            )
        )
    return rows
