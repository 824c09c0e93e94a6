"""LoRA on row slices of fused weights, which peft's own LoRA cannot target (arXiv 2106.09685, Eq. 3).

    ΔW = (alpha / r) · B A,   A (r, i) normal, B (o, r) zero

For whole weights use peft's ``LoraConfig``, which has many more options.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import AdapterConfig, setting
from genft.api.method import Factor, Factors, Site, WeightMethod
from genft.api.registry import register
from genft.ops.initial import linear_


@dataclass
class LoraSlicesConfig(AdapterConfig):
    """Configuration of LoRA through our bridge, for ``target_slices``. Trains r · (o + i) numbers per slice."""

    method = "lora_slices"

    r: int = setting(8, "Rank of ΔW.", gt=0)
    lora_alpha: float = setting(8, "ΔW is scaled by lora_alpha / r.")


@register(
    "lora_slices", config=LoraSlicesConfig, paper="LoRA, arXiv 2106.09685", trains="low-rank factors of row slices"
)
class LoraSlices(WeightMethod[LoraSlicesConfig]):
    """ΔW = (alpha / r) · B A."""

    def factors(self, site: Site) -> dict[str, Factor]:
        r = self.config.r
        zero = self.config.init_weights is True
        return {
            "A": Factor((r, site.in_features), linear_),
            "B": Factor((site.out_features, r), nn.init.zeros_ if zero else nn.init.kaiming_uniform_),
        }

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"]:
        left, right = self.low_rank(w0, f)
        return left @ right.T

    def low_rank(self, w0: Float[Tensor, "o i"], f: Factors) -> tuple[Float[Tensor, "o k"], Float[Tensor, "i k"]]:
        return self.config.lora_alpha / self.config.r * f["B"], f["A"].T
