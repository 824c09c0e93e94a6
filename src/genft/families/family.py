"""The interface of a family of tasks: how a task is learned. There is one instance per task.

Training, the store, bench, report, search, study, export and predict use this interface and nothing else, so that a
new family is one file next to this one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from genft.data.encode import Encoded
from genft.data.preprocessing import Kind
from genft.data.task import Split, Task
from genft.families.metrics import Array, Metric
from genft.models.load import Head, LoadedModel, load_model
from genft.models.source import ModelSource


@runtime_checkable
class Options(Protocol):
    """The hyper-parameters of training that a family reads (see :class:`genft.runs.settings.Training`)."""

    @property
    def label_smoothing(self) -> float: ...
    @property
    def augment(self) -> str: ...


class Family(ABC):
    """How a kind of task is learned.

    Attributes:
        task: what is learned; its classes are known once its data have been read.
    """

    #: The name by which tasks refer to this family.
    name: ClassVar[str]

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def reads(self) -> Kind:
        """What the model takes: texts or images."""
        return self.task.kind

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
        """The metric that selects the epoch and is reported.

        Raises:
            ConfigError: there is no such metric, or it cannot score this task.
        """

    @property
    @abstractmethod
    def answers(self) -> str:
        """A phrase for what is predicted: ``"2 classes"``."""

    @property
    @abstractmethod
    def by_class(self) -> bool:
        """Whether examples have classes, by which they can be drawn evenly."""

    @property
    def revision(self) -> str | None:
        """What changed in how this family learns since genft 0.1, so that older results are not taken for new ones."""
        return None

    # ---------------------------------------------------------------- the model

    @property
    @abstractmethod
    def head(self) -> Head:
        """The head that is added to the backbone."""

    def load(
        self,
        source: ModelSource,
        *,
        image_size: int | None = None,
        drop_path: float = 0.0,
        imagenet: bool = False,
        crop: bool = False,
    ) -> LoadedModel:
        """The model with a head for this task; see :func:`genft.models.load.load_model`."""
        return load_model(
            source,
            self.head,
            max_length=self.task.max_length,
            image_size=image_size,
            drop_path=drop_path,
            imagenet=imagenet,
            crop=crop,
        )

    def for_training(self, train: Split, loaded: LoadedModel) -> Family:
        """The family during training, which may learn other targets than it reports; by default the family itself.

        Args:
            train: the examples that will be trained on.
            loaded: the model with its head, before a method is attached.
        """
        return self

    def finish(self, model: Any, loaded: LoadedModel) -> None:  # noqa: B027  most families have nothing to do
        """Called on :meth:`for_training`'s family after training, so that the model predicts what is reported."""

    # ---------------------------------------------------------------- examples

    @abstractmethod
    def encode(
        self, split: Split, loaded: LoadedModel, *, augment: str = "none", several_passes: bool = False
    ) -> Encoded:
        """Encode examples as the model's inputs and targets; see :func:`genft.data.encode.encode`."""

    @abstractmethod
    def collator(self, loaded: LoadedModel) -> Any:
        """The function that collates encoded examples into a batch."""

    # ---------------------------------------------------------------- predictions

    @abstractmethod
    def predictions(self, outputs: Array) -> Array:
        """Predictions from the model's outputs."""

    def targets(self, labels: Array) -> Array:
        """Targets as they are reported, from the labels of encoded examples; by default the labels themselves."""
        return labels

    @abstractmethod
    def compact(self, answers: Array) -> Array:
        """Predictions or targets in the smallest type that holds them, for the store."""

    @abstractmethod
    def scores(self, predicted: Array, target: Array) -> dict[str, float]:
        """The score of every metric that suits the task, by name."""

    @abstractmethod
    def answer(self, outputs: Sequence[float]) -> Mapping[str, Any]:
        """One prediction as ``genft predict`` writes it.

        Args:
            outputs: probabilities (classes,), or the value (1,) in a regression.
        """
