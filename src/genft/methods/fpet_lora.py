"""FPET with LoRA: low-rank queries and values, and one merge of tokens (arXiv 2503.20282).

    q       W_q x + b_q + s · W_up (W_down x), and v likewise, in every block      W_down (r, d), W_up (d, r)
    x'      the tokens merged after the attention of one block: ``token_merging.py``

W_up starts at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from genft.api.config import setting
from genft.api.method import BlockSite, Factor, Factors
from genft.api.registry import register
from genft.methods.bottleneck import bottleneck, bottleneck_factors, prefixed, under, zero_unless
from genft.methods.token_merging import Merging, MergingConfig, Middle
from genft.ops.initial import linear_


@dataclass
class FPETLoraConfig(MergingConfig):
    """Configuration of FPET with LoRA; for L blocks of width d, with heads of width h, it trains
    4·L·d·r + 2·h·refine parameters.

    It needs a class token and square grids of patches.
    """

    method = "fpet_lora"

    r: int = setting(8, "Rank of LoRA on queries and on values.", gt=0)
    scale: float = setting(1.0, "s: scale of what LoRA adds.")


@register(
    "fpet_lora",
    config=FPETLoraConfig,
    paper="FPET, arXiv 2503.20282",
    trains="low-rank factors of queries and values, and an adapter by which patches are merged once",
    group="paper",
    kinds=("image",),
    recipe=Middle(),
)
class FPETLora(Merging[FPETLoraConfig]):
    """s · Up(Down x), added to queries and values, and the merge."""

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        d, r = site.out_features, self.config.r
        own = bottleneck_factors(d, r, linear_, zero_unless(not self.config.init_weights, r), biases=False)
        return prefixed("q_", own) | prefixed("v_", own) | self.refinement(site)

    def beside_projection(
        self, part: str, x: Float[Tensor, "*t d"], f: Factors, *, training: bool
    ) -> Float[Tensor, "*t d"] | None:
        own = under(f"{part}_", f)
        if not own:
            return None
        return self.config.scale * bottleneck(x, own, lambda h: h, self.config.dropout, training)
