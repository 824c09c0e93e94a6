"""What a method needs from a training run besides gradients; most need nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TrainerCallback

#: n → n training examples as inputs of the model, each in its own batch, without labels.
Examples = Callable[[int], Iterable[dict[str, "Tensor"]]]


class Recipe:
    """Called by ``genft.training`` in this order: :meth:`settings` and :meth:`prepare` before the adapter is attached,
    :meth:`initialise`, :meth:`learning_rate` and :meth:`callbacks` after."""

    def settings(self, model: PreTrainedModel, steps: int) -> dict[str, Any]:
        """Settings that follow from the base model or from the number of optimizer steps; the user's settings take
        precedence."""
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
