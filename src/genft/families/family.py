"""The interface of a family of tasks: how a task is learned. There is one instance per task.

Training, the store, bench, report, search, study, export and predict use this interface and nothing else, so that a
new family is one file next to this one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch

from genft.data.encode import Encoded, Item
from genft.data.task import Split, Task
from genft.errors import ConfigError
from genft.families.metrics import Array, Metric
from genft.families.predictor import Predictor
from genft.models.load import Head, LoadedModel, load_model
from genft.models.source import ModelSource


@runtime_checkable
class Options(Protocol):
    """The hyper-parameters of training that a family reads (see :class:`genft.runs.settings.Training`)."""

    @property
    def label_smoothing(self) -> float: ...
    @property
    def augment(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def eval_batch_size(self) -> int: ...
    @property
    def class_weights(self) -> str: ...


#: Gives what is kept of the outputs, and the labels, of encoded examples in their order.
Evaluate = Callable[[Encoded], tuple[Array, Array]]


class Judged(NamedTuple):
    """The predictions of a trained model on a split: for the store, and scored by every metric that suits them."""

    predicted: Array
    target: Array
    scores: dict[str, float]


class Words(NamedTuple):
    """What a model card says about a trained model.

    Attributes:
        meaning: what it predicts.
        example: a literal of one input, in Python.
        returns: what ``trained.predict`` returns.
        labels: names of the outputs of its head; empty if it has none of its own.
        pipeline: transformers' name of the pipeline that it fits, or None.
    """

    meaning: str
    example: str
    returns: str
    labels: tuple[str, ...] = ()
    pipeline: str | None = None


class Family(Predictor):
    """How a kind of task is learned, beside how a trained model is used."""

    #: Whether an example may become several inputs, so that their number is known only once they are encoded.
    splits_inputs: ClassVar[bool] = False

    # ---------------------------------------------------------------- before anything is loaded

    @abstractmethod
    def check(self, training: Options) -> None:
        """Refuse a metric or training values that do not suit the task.

        Raises:
            ConfigError: the first one that does not suit it.
        """

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """The metric that is reported.

        Raises:
            ConfigError: there is no such metric, or it cannot score this task.
        """

    @property
    def selects(self) -> Metric:
        """The metric that selects the epoch, from what evaluation keeps of the outputs; by default the reported one."""
        return self.metric

    @property
    def for_selection(self) -> Family:
        """The family that reports what it selects by, so that many candidates cost no more than that."""
        return self

    def on(self, task: Task) -> Family:
        """The family for another task of the same kind, with what :meth:`decided` has decided."""
        return type(self)(task)

    @property
    @abstractmethod
    def answers(self) -> str:
        """A phrase for what is predicted: ``"2 classes"``."""

    @property
    @abstractmethod
    def by_class(self) -> bool:
        """Whether examples have classes, by which they can be drawn evenly."""

    @property
    @abstractmethod
    def words(self) -> Words:
        """What a model card says about what is predicted."""

    @property
    def revision(self) -> str | None:
        """What changed in how this family learns since genft 0.1, so that older results are not taken for new ones."""
        return None

    # ---------------------------------------------------------------- the model

    @property
    @abstractmethod
    def head(self) -> Head:
        """The head that is added to the backbone."""

    def head_for(self, source: ModelSource) -> Head:
        """The head for this model; by default the same for all.

        Raises:
            ConfigError: the model's configuration cannot be used.
        """
        return self.head

    def load(
        self,
        source: ModelSource,
        *,
        image_size: int | None = None,
        drop_path: float = 0.0,
        imagenet: bool = False,
        crop: bool = False,
        quantise: str = "none",
    ) -> LoadedModel:
        """The model with a head for this task; see :func:`genft.models.load.load_model`."""
        return load_model(
            source,
            self.head_for(source),
            max_length=self.task.max_length,
            image_size=image_size,
            drop_path=drop_path,
            imagenet=imagenet,
            crop=crop,
            quantise=quantise,
        )

    def for_training(self, train: Split, loaded: LoadedModel) -> Family:
        """The family during training, which may learn other targets than it reports; by default the family itself.

        Args:
            train: the examples that will be trained on.
            loaded: the model with its head, before a method is attached.
        """
        return self

    def finish(self, model: Any, loaded: LoadedModel) -> None:
        """Called on :meth:`for_training`'s family after training, so that the model predicts what is reported."""

    def loss(self, train: Split, training: Options) -> Callable[..., torch.Tensor] | None:
        """The loss as ``Trainer`` calls it, or None for the one that the model computes.

        Args:
            train: the examples that will be trained on.
            training: hyper-parameters.
        """
        return None

    # ---------------------------------------------------------------- examples

    @abstractmethod
    def encode(
        self, split: Split, loaded: LoadedModel, *, augment: str = "none", several_passes: bool = False
    ) -> Encoded:
        """Encode examples as the model's inputs and targets; see :func:`genft.data.encode.encode`."""

    @abstractmethod
    def collator(self, loaded: LoadedModel) -> Any:
        """The function that collates encoded examples into a batch."""

    def model_input(self, item: Item) -> dict[str, Any]:
        """An encoded example as a model input of one example, for methods that look at data before training."""
        return {key: torch.as_tensor(value)[None] for key, value in item.items() if key != "labels"}

    def run(self, model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor, tuple[Any, ...]]:
        """(the model's loss of a batch with labels, its outputs as :meth:`kept_outputs` takes them)."""
        outputs = model(**batch)
        return outputs["loss"], (outputs["logits"],)

    # ---------------------------------------------------------------- predictions

    def kept_outputs(self, outputs: Any, labels: Any) -> Any:
        """What evaluation keeps of the outputs of a batch; by default the logits."""
        return outputs[0] if isinstance(outputs, tuple) else outputs

    @abstractmethod
    def predictions(self, outputs: Array) -> Array:
        """Predictions from what evaluation keeps of the outputs."""

    def targets(self, labels: Array) -> Array:
        """Targets as they are reported, from the labels of encoded examples; by default the labels themselves."""
        return labels

    @abstractmethod
    def compact(self, answers: Array) -> Array:
        """Predictions or targets in the smallest type that holds them, for the store."""

    @abstractmethod
    def scores(self, predicted: Array, target: Array) -> dict[str, float]:
        """The score of every metric that suits the task, by name."""

    def selecting_score(self, outputs: Array, labels: Array, data: Encoded) -> float:
        """The score that selects the epoch.

        Args:
            outputs, labels: what evaluation keeps of the outputs, and the labels.
            data: the encoded examples, in the same order.
        """
        return self.selects.score(self.predictions(outputs), self.targets(labels))

    def decided(self, select: Split, loaded: LoadedModel, evaluate: Evaluate) -> Family:
        """The family with what is decided on the selecting split once the model is trained; by default nothing is.

        Args:
            select: the examples that selected the epoch.
            loaded: the base model with its head.
            evaluate: with the trained model.
        """
        return self

    def judge(
        self,
        split: Split,
        loaded: LoadedModel,
        model: Any,
        training: Options,
        evaluate: Evaluate,
    ) -> Judged:
        """Predict and score a split with the trained model.

        Args:
            split: the examples.
            loaded: the base model with its head.
            model: the trained model.
            training: hyper-parameters.
            evaluate: with the trained model.
        """
        outputs, labels = evaluate(self.encode(split, loaded))
        predicted, target = self.predictions(outputs), self.targets(labels)
        return Judged(predicted, target, self.scores(predicted, target))


def refuse_other_settings(task: Task, *, own: str = "") -> None:
    """Refuse settings of a task that only other families read.

    Args:
        task: the task.
        own: the field of the task that its family reads.

    Raises:
        ConfigError: another field differs from its default.
    """
    for name, of in (("prompting", "generate text"), ("answering", "find answers in texts")):
        given = getattr(task, name).model_dump(exclude_defaults=True)
        if given and name != own:
            raise ConfigError(f"{', '.join(given)}: only for tasks that {of}, not for {task.name}")
