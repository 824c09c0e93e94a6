"""Which forward pass of the model is running, and the seeds of the dropout masks drawn in it.

A module that is called twice in one pass (DeBERTa's query_proj) must use one ΔW, hence one mask. A gradient
checkpoint recomputes a part of the pass later, with the random state restored, and must meet the same masks again.
Both hold when every call draws a seed (so the random stream is the same in a recomputation), and a call that is not
the first of its pass uses the first one's seed, remembered as an alias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genft.api.method import Site

#: Aliases kept per module: a recomputation happens within a step or a few of its forward pass.
REMEMBERED = 256


class ForwardPass:
    """Counts the forward passes of one model; registered as hooks on its root."""

    def __init__(self) -> None:
        self.number = 0
        self.running = False

    def begin(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():  # a counter in a compiled graph would recompile it every time
            self.number += 1
            self.running = True

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self.running = False


class MaskSeeds:
    """The seeds of one module's masks."""

    def __init__(self, forward_pass: ForwardPass) -> None:
        self.forward_pass = forward_pass
        self._first: dict[tuple[str, int], tuple[int, int]] = {}
        self._alias: dict[int, int] = {}

    def next(self, adapter_name: str, site: Site) -> int | Tensor:
        """The seed for this call: a number, or a tensor while torch.compile traces (one per call then)."""
        if torch.compiler.is_compiling():
            return torch.randint(2**62, ())
        drawn = int(torch.randint(2**62, ()).item())
        if not self.forward_pass.running:
            return self._alias.get(drawn, drawn)
        key = (adapter_name, site.start)
        number, first = self._first.get(key, (0, 0))
        if number != self.forward_pass.number:
            self._first[key] = (self.forward_pass.number, drawn)
            return drawn
        self._alias[drawn] = first
        if len(self._alias) > REMEMBERED:
            del self._alias[next(iter(self._alias))]
        return first
