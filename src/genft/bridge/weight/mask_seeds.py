"""Seeds for the dropout masks of one forward pass.

A module that is called twice in one pass (DeBERTa's query_proj) must use one ΔW, hence one mask. Gradient checkpointing
recomputes part of the pass later, with the random state restored, and must use the same masks again. To satisfy both,
every call draws a seed (so that the random stream is the same in a recomputation), and a call that is not the first of
its pass uses the first one's seed, which is remembered as an alias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genft.api.method import Site
from genft.bridge.forward_pass import ForwardPass

#: The number of aliases kept per module: a recomputation happens within a few steps of its forward pass.
REMEMBERED = 256


class MaskSeeds:
    """The seeds of one module's masks."""

    def __init__(self, forward_pass: ForwardPass) -> None:
        self.forward_pass = forward_pass
        # the backward pass may recompute in another thread than the one that drew the seed
        self._alias: dict[int, int] = {}

    def next(self, adapter_name: str, site: Site) -> int | Tensor:
        """The seed for this call: a number, or a new tensor per call while torch.compile traces."""
        if torch.compiler.is_compiling():
            return torch.randint(2**62, ())
        drawn = int(torch.randint(2**62, ()).item())
        if not self.forward_pass.running:
            return self._alias.get(drawn, drawn)
        first = self.forward_pass.seeds.setdefault((id(self), adapter_name, site.start), drawn)
        if first != drawn:
            self._alias[drawn] = first
            if len(self._alias) > REMEMBERED:
                self._alias.pop(next(iter(self._alias)), None)
        return first
