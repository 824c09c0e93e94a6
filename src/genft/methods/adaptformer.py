"""AdaptFormer: a bottleneck beside the MLP of every block (arXiv 2205.13535, Eq. 3 and 4).

    x       residual stream between attention and MLP        (..., d)
    x̃       ReLU(x W_down + b_down)                           (..., m)
    x'      MLP(LN x) + s · (x̃ W_up + b_up) + x              (..., d)

W_up starts at zero, so the pretrained function is unchanged at first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from genft.api.config import AdapterConfig, in_range, setting
from genft.api.method import BlockMethod, Factor, Factors, Site
from genft.api.registry import register
from genft.methods.bottleneck import LINEAR, bottleneck, bottleneck_factors, zero_unless


@dataclass
class AdaptFormerConfig(AdapterConfig):
    """Configuration of AdaptFormer; by default every transformer block is adapted.

    Trains 2·d·m + m + d numbers a block of width d.
    """

    method = "adaptformer"

    bottleneck: int = setting(64, "m: width of the bottleneck (8 in the paper's VTAB-1k comparison).")
    scale: float = setting(0.1, "s: factor of the bottleneck's output.")
    dropout: float = setting(0.1, "Dropout on the bottleneck in training.")

    def problems(self) -> list[str]:
        found = super().problems()
        found += in_range("bottleneck", self.bottleneck, lambda m: m > 0, "a whole number above 0", int)
        found += in_range("dropout", self.dropout, lambda p: 0 <= p < 1, "0 <= dropout < 1")
        return found


@register(
    "adaptformer",
    config=AdaptFormerConfig,
    paper="AdaptFormer, arXiv 2205.13535",
    trains="a bottleneck MLP beside the MLP of every block",
)
class AdaptFormer(BlockMethod):
    """s · Up(ReLU(Down x)), added to the MLP's output."""

    config: AdaptFormerConfig

    def factors(self, site: Site) -> dict[str, Factor]:
        d, m = site.out_features, self.config.bottleneck
        return bottleneck_factors(d, m, LINEAR, zero_unless(not self.config.init_weights, m))

    def beside_mlp(self, x: Tensor, f: Factors, *, training: bool) -> Tensor:
        return self.config.scale * bottleneck(x, f, F.relu, self.config.dropout, training)
