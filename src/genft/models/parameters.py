"""Which parameters of a model are trained, which of those are its head's, and how many there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


def is_head(name: str, head: Sequence[str]) -> bool:
    """Whether the parameter ``name`` belongs to one of the ``head`` modules, whatever peft has wrapped around it."""
    return any(re.search(rf"(^|\.){re.escape(module)}\.", name) for module in head)


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: what the adapter trains, what the head has, and the whole model with both."""

    adapter: int
    head: int
    total: int


def count_parameters(model: nn.Module, head: Sequence[str]) -> ParameterCount:
    """Count from the model itself; a tensor that several layers share counts once."""
    trained = trained_state(model)
    in_head = sum(p.numel() for name, p in trained.items() if is_head(name, head))
    total = sum(p.numel() for p in model.parameters())
    return ParameterCount(sum(p.numel() for p in trained.values()) - in_head, in_head, total)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors by name, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
