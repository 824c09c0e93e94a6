"""FPET with AdaptFormer: a bottleneck beside every MLP, and one merge of tokens (arXiv 2503.20282).

    x       residual stream between attention and MLP, merged in one block: ``token_merging.py``
    x'      MLP(LN x) + s · W_up ReLU(W_down x) + x                                W_down (m, d), W_up (d, m)

W_up starts at zero; there are no biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genft.api.config import setting
from genft.api.method import BlockSite, Factor, Factors
from genft.api.registry import register
from genft.methods.bottleneck import bottleneck, bottleneck_factors, zero_unless
from genft.methods.token_merging import Merging, MergingConfig, Middle
from genft.ops.initial import linear_


@dataclass
class FPETAdaptFormerConfig(MergingConfig):
    """Configuration of FPET with AdaptFormer; for L blocks of width d, with heads of width h, it trains
    2·L·d·m + 2·h·refine parameters.

    It needs a class token and square grids of patches.
    """

    method = "fpet_adaptformer"

    bottleneck: int = setting(8, "m: width of the bottleneck.", gt=0)
    scale: float = setting(1.0, "s: scale of the bottleneck's output.")


@register(
    "fpet_adaptformer",
    config=FPETAdaptFormerConfig,
    paper="FPET, arXiv 2503.20282",
    trains="a bottleneck MLP beside the MLP of every block, and an adapter by which patches are merged once",
    group="paper",
    kinds=("image",),
    recipe=Middle(),
)
class FPETAdaptFormer(Merging[FPETAdaptFormerConfig]):
    """s · Up(ReLU(Down x)), added to the MLP's output, and the merge."""

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        d, m = site.out_features, self.config.bottleneck
        own = bottleneck_factors(d, m, linear_, zero_unless(not self.config.init_weights, m), biases=False)
        return own | self.refinement(site)

    def beside_mlp(self, x: Float[Tensor, "*t d"], f: Factors, *, training: bool) -> Float[Tensor, "*t d"]:
        return self.config.scale * bottleneck(x, f, F.relu, self.config.dropout, training)
