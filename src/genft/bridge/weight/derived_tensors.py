"""Frozen tensors that a method derives from a weight, kept beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


class DerivedTensors(nn.Module):
    """Frozen tensors by name that move with the model. They are not buffers, because DDP would broadcast those in
    every forward pass.

    Args:
        saved: whether they are part of the state dict.
    """

    def __init__(self, saved: bool) -> None:
        super().__init__()
        self.saved = saved
        self.tensors: dict[str, Tensor] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DerivedTensors:
        # what is on the meta device has no values to move; it is derived anew when W0 has some
        self.tensors = {name: t if t.is_meta else fn(t) for name, t in self.tensors.items()}
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.saved:
            destination.update({prefix + name: tensor for name, tensor in self.tensors.items()})

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, tensor in self.tensors.items():
            if prefix + name in state_dict:
                self.tensors[name] = state_dict[prefix + name].to(tensor)
