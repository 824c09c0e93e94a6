"""SSF: scale and shift the output of every layer (arXiv 2210.08823, Eq. 3 and 4).

    y = γ ⊙ x + β,   x (..., o) the output of a linear layer, a normalisation or the patch embedding

With x = W0 z + b0 that is ΔW = diag(γ − 1) W0 and Δb = (γ − 1) ⊙ b0 + β, so the update merges into the layer (the
paper's re-parameterisation). The trained parameters are γ − 1, called ``scale_bias``, and β, called ``shift_bias``, so
weight decay pulls the layer towards the pretrained one. Both start at zero, exactly at the pretrained function.
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
class SSFConfig(AdapterConfig):
    """Configuration of SSF; by default for every linear weight in a block, every normalisation and convolution.

    Trains 2·o parameters for o outputs.
    """

    method = "ssf"

    scope: str = setting(
        "block",
        "Linear weights adapted if target_modules is not given, in addition to all normalisations and convolutions. "
        "'block': all in every layer; 'attention': those of attention; 'qv': query and value.",
        choices=("block", "attention", "qv"),
    )

    @property
    def default_scope(self) -> str:
        return self.scope


@register(
    "ssf",
    config=SSFConfig,
    paper="SSF, arXiv 2210.08823",
    trains="a scale and a shift per output of every linear weight, normalisation and convolution",
    group="relative",
)
class SSF(WeightMethod[SSFConfig]):
    """W = diag(γ) W0 and b = γ ⊙ b0 + β, with γ = 1 + scale_bias and β = shift_bias."""

    beyond_linear = True

    def factors(self, site: Site) -> dict[str, Factor]:
        init = nn.init.zeros_ if self.config.init_weights else partial(nn.init.normal_, std=0.1)
        return {name: Factor((site.out_features,), init) for name in ("scale_bias", "shift_bias")}

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"]:
        return f["scale_bias"][:, None] * w0

    def delta_bias(self, b0: Float[Tensor, " o"] | None, f: Factors) -> Float[Tensor, " o"]:
        return f["shift_bias"] if b0 is None else f["scale_bias"] * b0 + f["shift_bias"]

    def linear(self, x: Tensor, base: Base, bias: Tensor | None, f: Factors, shape: Shape) -> Tensor:
        y = base(x)
        w0_x = y if bias is None else y - bias
        return y + (f["scale_bias"] * w0_x).to(y.dtype)  # the bias's own update is delta_bias
