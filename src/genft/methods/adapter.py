"""Adapters: bottlenecks in series with the frozen computations of a block.

``houlsby``: two per block, with trained layer normalisations (arXiv 1902.00751, Section 2.1, Figure 2):

    h       what attention, or the MLP, adds to the residual stream, after dropout   (..., d)
    h'      h + GELU(h W_down + b_down) W_up + b_up                                  width m in between
    γ, β    of the block's layer normalisations, trained

``adapter``: one per block, after the MLP; the form that comparisons on images call "Adapter" (V-PETL).

As published, both start near the pretrained function but not exactly at it: their weights are random and small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import PaperStartConfig, setting
from genft.api.method import BlockMethod, BlockSite, Factor, Factors, Init
from genft.api.registry import register
from genft.methods.bottleneck import bottleneck, bottleneck_factors, prefixed, under

#: The tanh form, used in the original code of BERT and of the adapters.
gelu_tanh = partial(F.gelu, approximate="tanh")


@dataclass
class AdapterMLPConfig(PaperStartConfig):
    """Configuration of one adapter after every MLP; by default every transformer block is adapted.

    Trains 2·d·m + m + d numbers per block of width d. The default is V-PETL's for ViT-B/16, m = 8 (0.16 M).
    """

    method = "adapter"

    bottleneck: int = setting(8, "m: width of the bottleneck.", gt=0)


@dataclass
class HoulsbyConfig(PaperStartConfig):
    """Configuration of Houlsby's adapters; by default every transformer block is adapted.

    Trains 2·(2·d·m + m + d) numbers per block of width d, and 2·d for each trained layer normalisation. The default
    bottleneck is that of the authors' code (``feedforward_adapter``, 64); the paper sweeps over 8, 64 and 256.
    """

    method = "houlsby"

    bottleneck: int = setting(64, "m: width of the bottlenecks.", gt=0)
    layer_norms: str = setting(
        "all", "Which layer normalisations of a block are trained, as offsets.", choices=("all", "last", "none")
    )


@register(
    "adapter",
    config=AdapterMLPConfig,
    paper="Houlsby et al., arXiv 1902.00751, in the form of V-PETL (arXiv 2210.00788)",
    trains="a bottleneck after the MLP of every block",
    group="paper",
)
class AdapterMLP(BlockMethod[AdapterMLPConfig]):
    """h + Up(GELU(Down h)) after the MLP."""

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        d, m = site.out_features, self.config.bottleneck
        small: Init = partial(nn.init.trunc_normal_, std=0.02)
        return bottleneck_factors(d, m, *((small, small) if self.config.init_weights else _large(d, m)))

    def after_mlp(self, h: Float[Tensor, "*t d"], f: Factors, *, training: bool) -> Float[Tensor, "*t d"]:
        return bottleneck(h, f, F.gelu)


@register(
    "houlsby",
    config=HoulsbyConfig,
    paper="Houlsby et al., arXiv 1902.00751",
    trains="bottlenecks after attention and MLP of every block, and its layer normalisations",
    group="paper",
)
class Houlsby(BlockMethod[HoulsbyConfig]):
    """h + Up(GELU(Down h)) after attention and after the MLP; offsets of γ and β."""

    def hooks(self) -> frozenset[str]:
        return super().hooks() - ({"norm_offset"} if self.config.layer_norms == "none" else set())

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        d, m = site.out_features, self.config.bottleneck
        # truncated at two standard deviations, like TensorFlow's truncated_normal_initializer
        small: Init = partial(nn.init.trunc_normal_, std=1e-3, a=-2e-3, b=2e-3)
        one = bottleneck_factors(d, m, *((small, small) if self.config.init_weights else _large(d, m)))
        factors = prefixed("attention_", one) | prefixed("mlp_", one)
        for norm in self._trained(site):
            index = site.norms.index(norm)
            factors[f"norm{index}_weight"] = Factor((d,), nn.init.zeros_)
            factors[f"norm{index}_bias"] = Factor((d,), nn.init.zeros_)
        return factors

    def _trained(self, site: BlockSite) -> Sequence[str]:
        return {"all": site.norms, "last": site.norms[-1:], "none": ()}[self.config.layer_norms]

    def after_attention(self, h: Float[Tensor, "*t d"], f: Factors, *, training: bool) -> Float[Tensor, "*t d"]:
        return bottleneck(h, under("attention_", f), gelu_tanh)

    def after_mlp(self, h: Float[Tensor, "*t d"], f: Factors, *, training: bool) -> Float[Tensor, "*t d"]:
        return bottleneck(h, under("mlp_", f), gelu_tanh)

    def norm_offset(
        self, site: BlockSite, norm: str, f: Factors
    ) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]] | None:
        if norm not in self._trained(site):
            return None
        index = site.norms.index(norm)
        return f[f"norm{index}_weight"], f[f"norm{index}_bias"]


def _large(d: int, m: int) -> tuple[Init, Init]:
    """Initialisations of W_down and W_up with which the bottleneck's output is as large as its input."""
    return partial(nn.init.normal_, std=d**-0.5), partial(nn.init.normal_, std=m**-0.5)
