"""What the authors' programs compute, written down from the facts in our notes and not from their code.

Weights are in the layout of their files: (a, d) for ``share_1_a`` and ``share_2_a``, (d, a) for ``share_1_b`` and
``share_2_b``, (b, d) for A and (d, b) for B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": lambda z: torch.where(z > 0, z, 0 * z),
    "leaky_relu": lambda z: torch.where(z > 0, z, 0.01 * z),
    "gelu": lambda z: z * 0.5 * (1 + torch.erf(z / 2**0.5)),
    "tanh": torch.tanh,
}
SHARED = {"share_1_a": "u_in", "share_1_b": "u_out", "share_2_a": "v_in", "share_2_b": "v_out"}


@dataclass
class Generator:
    """Two stages, each W → inner → full matrix → outer → dropout, with a transposition between them.

    ``weights`` and ``biases`` are keyed as in :data:`SHARED`; ``ratio`` multiplies each of the four weights.
    """

    weights: Mapping[str, Tensor]
    inner: str
    outer: str
    scaling: float
    ratio: float = 1.0
    biases: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_ours(cls, config: Any, f: Mapping[str, Tensor]) -> Generator:
        """The same generator from our configuration and factors."""
        nothing = next(iter(f.values())).new_zeros(len(next(iter(f.values()))), 0)
        ours = {theirs: f.get(name, nothing) for theirs, name in SHARED.items()}
        weights = {name: t.T if name.endswith("_a") else t for name, t in ours.items()}
        biases = {theirs: f[f"{name}_bias"] for theirs, name in SHARED.items() if f"{name}_bias" in f}
        ratio = config.w0_ratio if config.ratio_power == 4 else 1.0
        return cls(weights, config.act_inner, config.act_outer, config.scaling, ratio, biases)

    def linear(self, name: str, x: Tensor, extra: Tensor | None) -> Tensor:
        weight = self.weights[name]
        if extra is not None:
            weight = torch.cat([weight, extra], dim=0 if name.endswith("_a") else 1)
        y = x @ (self.ratio * weight).T
        return y + self.biases[name] if name in self.biases else y

    def __call__(
        self,
        w: Tensor,
        a: Tensor | None = None,
        b: Tensor | None = None,
        masks: tuple[Tensor | float, Tensor | float] = (1.0, 1.0),
    ) -> Tensor:
        for stage, mask in ((1, masks[0]), (2, masks[1])):
            w = w.T if stage == 2 else w
            z = ACTS[self.inner](self.linear(f"share_{stage}_a", w, a))
            w = ACTS[self.outer](self.linear(f"share_{stage}_b", z, b)) * mask
        return self.scaling * w


def specific_product(b: Tensor, a: Tensor) -> Tensor:
    """What their text program adds without a generator."""
    return b @ a


def written_for(
    config: Any, w0: Tensor, f: Mapping[str, Tensor], masks: tuple[Tensor | float, Tensor | float] = (1.0, 1.0)
) -> Tensor:
    """ΔW (o, i) as their image program (ratio_power 4) or their text program (1) makes it of W0."""
    generator = Generator.from_ours(config, f)
    pair = (f["a"].T, f["b"]) if "a" in f else (None, None)
    x = config.w0_ratio * w0 if config.ratio_power == 1 and "a" in f else w0
    delta = generator(x, *pair, masks=masks)
    return delta.T if config.transpose_delta else delta
