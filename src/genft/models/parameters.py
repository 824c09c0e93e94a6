"""Which parameters of a model are trained, and how many they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genft.records import Record

if TYPE_CHECKING:
    from torch import Tensor, nn


class Counts(Record):
    """Numbers of parameters: what the adapter trains, what the head trains, and all of the adapted model."""

    adapter: int
    head: int
    total: int


def count_parameters(model: nn.Module, head: Sequence[str]) -> Counts:
    """Count from the model itself; a tensor that several layers share counts once.

    Args:
        model: with the method attached.
        head: paths of the modules that are trained in full.
    """
    trained = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
    in_head = sum(n for name, n in trained if is_head(name, head))
    total = sum(p.numel() for p in model.parameters())
    return Counts(adapter=sum(n for _, n in trained) - in_head, head=in_head, total=total)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors by name, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def is_head(name: str, head: Sequence[str]) -> bool:
    """Whether the parameter ``name`` belongs to one of the ``head`` modules, whatever peft has wrapped around it."""
    return any(re.search(rf"(^|\.){re.escape(module)}\.", name) for module in head)
