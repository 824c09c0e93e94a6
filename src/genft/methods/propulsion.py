"""Propulsion: scale every output of a linear layer by a learned power (arXiv 2409.10927).

    y = (W0 x + b0) ⊙ z^k,   z (o,) trained, initialised to one;   k: degree

which is ΔW = diag(z^k − 1) W0 and Δb = (z^k − 1) ⊙ b0. The trained parameter is z − 1, called ``z_bias``, so that
weight decay pulls the layer towards the pretrained one and not towards zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import AdapterConfig, setting
from genft.api.method import Base, Factor, Factors, Site, WeightMethod
from genft.api.registry import register
from genft.ops.plan import Shape


@dataclass
class PropulsionConfig(AdapterConfig):
    """Configuration of Propulsion; by default every linear weight inside the transformer's blocks is adapted."""

    method = "propulsion"

    degree: int = setting(
        15, "k: the power of z. 15 is the default of the released layer; its GLUE notebooks use 55, MNLI's 35.", gt=0
    )

    @property
    def default_scope(self) -> str:
        return "block"


@register(
    "propulsion",
    config=PropulsionConfig,
    paper="Propulsion, arXiv 2409.10927",
    trains="a scale per output of every linear weight in a block",
    group="paper",
)
class Propulsion(WeightMethod[PropulsionConfig]):
    """W = diag(z^k) W0 and b = z^k ⊙ b0, with z = 1 + z_bias."""

    def factors(self, site: Site) -> dict[str, Factor]:
        init = nn.init.zeros_ if self.config.init_weights else partial(nn.init.normal_, std=0.3 / self.config.degree)
        return {"z_bias": Factor((site.out_features,), init)}

    def scale(self, f: Factors) -> Float[Tensor, " o"]:
        """z^k, (o,)."""
        return (1 + f["z_bias"]) ** self.config.degree

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"]:
        return (self.scale(f) - 1)[:, None] * w0

    def delta_bias(self, b0: Float[Tensor, " o"] | None, f: Factors) -> Float[Tensor, " o"] | None:
        return None if b0 is None else (self.scale(f) - 1) * b0

    def linear(self, x: Tensor, base: Base, b0: Tensor | None, f: Factors, shape: Shape) -> Tensor:
        y = base(x)
        w0_x = y if b0 is None else y - b0
        return y + ((self.scale(f) - 1) * w0_x).to(y.dtype)  # the bias's own update is delta_bias
