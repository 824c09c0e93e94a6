"""Frozen tensors that a method derives from a weight, stored with the weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from genft.bridge.forward_pass import ForwardPass
from genft.bridge.update_cache import PARTS, WatchedWeight
from genft.ops.tracing import is_traced


class DerivedTensors(nn.Module):
    """Frozen tensors by name, which move with the model. They are not buffers, because DDP would broadcast those in
    every forward pass.

    Args:
        saved: whether they are part of the state dict.
    """

    def __init__(self, saved: bool) -> None:
        super().__init__()
        self.saved = saved
        self.tensors: dict[str, Tensor] = {}
        self._source: WatchedWeight | None = None
        self._checks = self._passed = 0

    def derived_from(self, weight: Tensor) -> None:
        """Remember the weight, as its module stores it, from which the tensors were derived."""
        plain = type(weight) in (Tensor, nn.Parameter) and not weight.is_meta and not weight.is_inference()
        self._source = WatchedWeight(weight) if plain and self.tensors else None

    def are_outdated(self, weight: Tensor, forward_pass: ForwardPass) -> bool:
        """Whether the weight has changed since, for example by ``load_state_dict``, an edit or an optimizer.

        Once in every forward pass, its storage and version are checked, and its values part by part. An accelerator
        would have to be waited for, so there all values are compared in every 32nd pass. A weight that has only moved,
        or was merged into and restored, has the same values, so its tensors are not outdated.
        """
        if not self.tensors or is_traced() or type(weight) not in (Tensor, nn.Parameter):
            return False
        if weight.is_meta or weight.is_inference():
            return False
        if forward_pass.running and self._passed == forward_pass.number:
            return False
        self._passed = forward_pass.number
        if self._source is None:
            self.derived_from(weight)
            return False
        self._checks += 1
        tokens = 1 if weight.device.type == "cpu" else PARTS if self._checks % PARTS == 0 else 0
        if self._source.tensor is weight and self._source.same(tokens):
            return False
        before, self._source = self._source, WatchedWeight(weight)
        return not self._source.equals(before)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DerivedTensors:
        # tensors on the meta device have no values to move; they are derived again once W0 has values
        self.tensors = {name: t if t.is_meta else fn(t) for name, t in self.tensors.items()}
        self._source = None  # the weight moves or changes its dtype, but is still the source of these tensors
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.saved:
            destination.update({prefix + name: tensor for name, tensor in self.tensors.items()})

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, tensor in self.tensors.items():
            if prefix + name in state_dict:
                self.tensors[name] = state_dict[prefix + name].to(tensor)
