"""What a method needs from a training run besides gradients; most need nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TrainerCallback

#: n → n training examples as inputs of the model, each in its own batch, without labels.
Examples = Callable[[int], Iterable[dict[str, "Tensor"]]]

#: (n, size) → the training loss of n batches of labelled training examples, one after the other; each carries a graph.
Losses = Callable[[int, int], Iterable["Tensor"]]


class Recipe:
    """Called by ``genft.training`` in this order: :meth:`settings`, :meth:`found_in_training` and :meth:`prepare`
    before the adapter is attached, :meth:`initialise`, :meth:`learning_rate` and :meth:`callbacks` after,
    :meth:`loss` in every step, and :meth:`found_after_training` once it is trained."""

    def settings(self, model: PreTrainedModel, steps: int, image_size: int | None = None) -> dict[str, Any]:
        """Settings that follow from the base model, from the number of optimizer steps or from the pixels per side of
        the images (None: the model's own); the user's settings take precedence."""
        return {}

    def found_in_training(self, model: PreTrainedModel, config: Any, losses: Losses) -> dict[str, Any]:
        """Settings that follow from gradients of the training loss, such as what is trained; saved with the adapter.
        Called with the base model in evaluation mode; ``config`` is only read."""
        return {}

    def prepare(self, model: PreTrainedModel, config: Any, examples: Examples) -> None:
        """Called with the base model in evaluation mode, before the adapter is attached; ``config`` is only read."""

    def initialise(self, model: Any, config: Any, examples: Examples) -> None:
        """Called with the model and its new adapter in evaluation mode, for trained tensors that start from data."""

    def learning_rate(self, config: Any, name: str) -> float:
        """The multiplier of the adapter's learning rate for the parameter ``name``."""
        return 1.0

    def callbacks(self, model: Any) -> list[TrainerCallback]:
        """Callbacks of ``transformers.Trainer`` for the model with its adapter."""
        return []

    def loss(self, model: Any, config: Any, of_outputs: Callable[[], Tensor]) -> Tensor:
        """The loss of a training batch, for methods that train more than what the model outputs.

        Args:
            model: the model with its adapter.
            config: the adapter's configuration, which is only read.
            of_outputs: runs the model on the batch and returns the loss of its outputs; may be called several times.
        """
        return of_outputs()

    def found_after_training(self, model: Any, config: Any, losses: Losses) -> dict[str, Any]:
        """Settings that follow from the trained adapter, with which the run trains once more from its start; empty
        ends the run. Called with the trained model in evaluation mode; ``config`` is only read."""
        return {}
