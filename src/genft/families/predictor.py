"""The part of a family that a trained model is used with: what it reads, and how its predictions are shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from genft.data.encode import Encoded, longest_first
from genft.data.own_table import OwnTable
from genft.data.preprocessing import Kind, Preprocessing
from genft.data.tables import Table
from genft.data.task import Task
from genft.errors import ConfigError


class Predictor(ABC):
    """How a trained model of a kind of task is used.

    Attributes:
        task: what is learned; its classes are known once its data have been read.
    """

    #: The name by which tasks refer to this family.
    name: ClassVar[str]
    #: The kinds of input that it learns from.
    kinds: ClassVar[tuple[Kind, ...]] = ("text",)

    def __init__(self, task: Task) -> None:
        self.task = task

    @classmethod
    def of_file(cls, task: Task, file: OwnTable) -> Task | None:
        """``task``, read from a user's own file, with the reader and the columns of this family; None if it is none, or
        already one.

        Args:
            task: with the columns of a classification.
            file: the training file, and what the user says about it.

        Raises:
            DataError: the user named the family, but the file has no such columns.
            ConfigError: a value that the user set does not suit the family.
        """
        return None

    @property
    @abstractmethod
    def usual_values(self) -> dict[str, Any]:
        """The fields of a user's own task if the user sets no others: the metric, and what differs from the defaults of
        :class:`~genft.data.task.Task`."""

    @property
    def reads(self) -> Kind:
        """What the model takes: texts or images."""
        return self.task.kind

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of what makes up one input of the model; by default the text columns, or the image."""
        return self.task.text_columns if self.reads == "text" else ("image",)

    def read(self, table: Table) -> Table:
        """A file to predict, with one row per example; by default as it is."""
        return table

    def inputs(self, table: Table, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """The model's inputs from a table without labels; by default the texts of ``columns``."""
        read = [table.column(name, option="--text-column") for name in columns]
        return list(zip(*read, strict=True))

    @abstractmethod
    def predict(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        inputs: Sequence[tuple[str, ...]],
        batch_size: int,
        options: Mapping[str, Any],
    ) -> Any:
        """One output per input, in their order.

        Args:
            model, tokenizer, preprocessing: of the trained model.
            inputs: the texts of each example, or the path of its image.
            batch_size: the number of inputs per forward pass.
            options: how to predict, in families where there is a choice.

        Raises:
            ConfigError: an option that this family does not have.
        """

    @abstractmethod
    def answer(self, output: Any) -> Mapping[str, Any]:
        """One output as ``genft predict`` shows it."""

    def label_in_words(self, label: Any) -> Any:
        """A label as ``genft evaluate`` shows it."""
        return label

    def badness(self, output: Any, label: Any) -> float:
        """How wrong one output of :meth:`predict` is, 0 if it is right; the worst examples are shown by it."""
        return float(output != label)

    def details(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        """What ``genft predict --json`` adds."""
        return {}

    def columns(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        """The columns that ``genft predict`` adds in a file, beyond :meth:`answer`."""
        return self.details(output, inputs)


def names_of_outputs(names: Sequence[str]) -> dict[str, Any]:
    """The names of a head's outputs, as a configuration of transformers has them."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: k for k, name in enumerate(names)},
    }


def logits_of(model: Any, tokenizer: Any, data: Encoded, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
    """(the numbers of some examples, their logits in float32 on the CPU), the longest first, until all are done.

    Args:
        model: with a head.
        tokenizer: None for images.
        data: without labels.
        batch_size: the number of inputs per forward pass.
    """
    order, device = longest_first(data.lengths), next(model.parameters()).device
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        items = [data[k] for k in rows]
        if tokenizer is None:
            batch = {"pixel_values": torch.stack([item["pixel_values"] for item in items])}
        else:
            batch = tokenizer.pad(items, return_tensors="pt")
        with torch.inference_mode():
            yield rows, model(**{name: value.to(device) for name, value in batch.items()}).logits.float().cpu()


def in_order(batches: Iterable[tuple[list[int], Tensor]]) -> Tensor:
    """The logits of all examples, (n, …), in their order."""
    rows, logits = zip(*batches, strict=True)
    return torch.cat(logits)[torch.tensor([k for of_batch in rows for k in of_batch]).argsort()]


def refuse_options(options: Mapping[str, Any], family: str) -> None:
    """For families that predict in one way only.

    Raises:
        ConfigError: there is an option.
    """
    if options:
        raise ConfigError(f"{', '.join(options)}: only for tasks that generate text, and this one is {family}")
