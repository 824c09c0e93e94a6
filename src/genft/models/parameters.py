"""Which parameters of a model are trained, and how many there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genft.records import Record

if TYPE_CHECKING:
    from torch import Tensor, nn


class Counts(Record):
    """Numbers of parameters: trained in the adapter, trained in the head, and in the whole adapted model."""

    adapter: int
    head: int
    total: int


def count_parameters(model: nn.Module, head: Sequence[str]) -> Counts:
    """Count the parameters of the model itself; a tensor that several layers share counts once.

    Args:
        model: the model with the method attached.
        head: paths of the modules that are trained in full.
    """
    trained = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
    in_head = sum(n for name, n in trained if is_head(name, head))
    total = sum(p.numel() for p in model.parameters())
    return Counts(adapter=sum(n for _, n in trained) - in_head, head=in_head, total=total)


def trained_modules(model: nn.Module, head: Sequence[str]) -> tuple[str, ...]:
    """Those of the ``head`` modules of which parameters require gradients; some methods of peft freeze them."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return tuple(module for module in head if any(is_head(name, (module,)) for name in trained))


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors by name, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def is_head(name: str, head: Sequence[str]) -> bool:
    """Whether the parameter ``name`` belongs to one of the ``head`` modules, even if peft has wrapped it."""
    return any(re.search(rf"(^|\.){re.escape(module)}\.", name) for module in head)
