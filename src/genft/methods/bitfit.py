"""BitFit: train only the biases (arXiv 2106.10199).

    b = b0 + Δb, for every bias of the model: linear layers, normalisations, convolutions.

The paper trains b in place; here an offset is trained, so that disabling the adapter restores the base model. The
offset is named ``bias``, so that transformers' Trainer excludes it from weight decay like any bias.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import AdapterConfig
from genft.api.method import Factor, Factors, Site, WeightMethod
from genft.api.registry import register


@dataclass
class BitFitConfig(AdapterConfig):
    """Configuration of BitFit; by default every module that has a bias is adapted."""

    method = "bitfit"


@register(
    "bitfit",
    config=BitFitConfig,
    paper="BitFit, arXiv 2106.10199",
    trains="an offset to every bias",
    group="paper",
)
class BitFit(WeightMethod[BitFitConfig]):
    """Δb, starting at zero."""

    bias_only = True
    is_linear = True

    def factors(self, site: Site) -> dict[str, Factor]:
        init = nn.init.zeros_ if self.config.init_weights else nn.init.normal_
        return {"bias": Factor((site.out_features,), init)}

    def delta_bias(self, b0: Float[Tensor, " o"] | None, f: Factors) -> Float[Tensor, " o"]:
        return f["bias"]
