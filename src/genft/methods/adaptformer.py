"""AdaptFormer: a bottleneck parallel to the MLP of every block (arXiv 2205.13535, Eq. 3 and 4).

    x       residual stream between attention and MLP        (..., d)
    x̃       ReLU(x W_down + b_down)                           (..., m)
    x'      MLP(LN x) + s · (x̃ W_up + b_up) + x              (..., d)

W_up starts at zero, so training starts at the pretrained function.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genft.api.config import AdapterConfig, setting
from genft.api.method import BlockMethod, BlockSite, Factor, Factors
from genft.api.registry import register
from genft.methods.bottleneck import bottleneck, bottleneck_factors, zero_unless
from genft.ops.initial import linear_


@dataclass
class AdaptFormerConfig(AdapterConfig):
    """Configuration of AdaptFormer; by default every transformer block is adapted.

    Trains 2·d·m + m + d numbers per block of width d.
    """

    method = "adaptformer"

    bottleneck: int = setting(64, "m: width of the bottleneck (8 in the paper's VTAB-1k comparison).", gt=0)
    scale: float = setting(0.1, "s: scale of the bottleneck's output.")
    dropout: float = setting(0.1, "Dropout on the bottleneck in training.", ge=0, lt=1)


@register(
    "adaptformer",
    config=AdaptFormerConfig,
    paper="AdaptFormer, arXiv 2205.13535",
    trains="a bottleneck MLP in parallel with the MLP of every block",
    group="paper",
)
class AdaptFormer(BlockMethod[AdaptFormerConfig]):
    """s · Up(ReLU(Down x)), added to the MLP's output."""

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        d, m = site.out_features, self.config.bottleneck
        return bottleneck_factors(d, m, linear_, zero_unless(not self.config.init_weights, m))

    def beside_mlp(self, x: Float[Tensor, "*t d"], f: Factors, *, training: bool) -> Float[Tensor, "*t d"]:
        return self.config.scale * bottleneck(x, f, F.relu, self.config.dropout, training)
