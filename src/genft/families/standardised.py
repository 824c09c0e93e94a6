"""Regression on standardised targets: trained on (y - mean) / deviation; the scale is folded into the head afterwards.

A head starts near 0. Targets between 0 and 5 leave the first steps to its bias, at the adapter's expense. The trained
model predicts in the task's own units, because the scale ends up in the weights of the head's last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from genft.models.parameters import is_head


@dataclass(frozen=True)
class Scale:
    """y = mean + deviation · z for a target y and its standardised form z."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, targets: Sequence[float], *, centred: bool = True) -> Scale:
        """The scale of the training targets.

        Args:
            centred: whether the head has a bias for the mean; without one, the deviation is taken around 0.
        """
        values = np.asarray(targets, dtype=np.float64)
        mean = float(values.mean()) if centred else 0.0
        return cls(mean, float(np.sqrt(np.mean((values - mean) ** 2))) or 1.0)

    def standardise(self, targets: Sequence[float]) -> list[float]:
        return [(y - self.mean) / self.deviation for y in targets]

    def restore(self, standardised: Any) -> Any:
        """Targets or predictions in the task's own units; an array of any shape."""
        return self.mean + self.deviation * standardised

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear) -> None:
        """Change the head's last layer so that its output is in the task's own units."""
        layer.weight.mul_(self.deviation)
        if layer.bias is not None:
            layer.bias.mul_(self.deviation).add_(self.mean)


UNSCALED = Scale()


def output_layer(model: nn.Module, head: Sequence[str]) -> nn.Linear | None:
    """The trainable linear layer that produces the output of ``head``, also where peft has wrapped it; None if none."""
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_head(f"{name}.", head) and module.weight.requires_grad
    ]
    return layers[-1] if layers else None
