"""LoRA-XS: a small trained matrix between the leading singular vectors of W0 (arXiv 2405.17604, Section 3).

    paper                              here
    W0 ≈ U_r Σ_r V_rᵀ
    A = U_r Σ_r, B = V_rᵀ, frozen      a (o, r), bᵀ (i, r)
    R, trained                         r (r, r)
    ΔW = (alpha / r) · A R B           (o, i)

R starts at zero, so the adapted model starts as exactly the pretrained function; the paper draws R from N(0, 1e-5²).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import AdapterConfig, setting
from genft.api.method import Factor, Factors, Site
from genft.api.registry import register
from genft.methods.singular import SingularMethod


@dataclass
class LoraXSConfig(AdapterConfig):
    """Configuration of LoRA-XS; by default query and value of every attention layer. Trains r² parameters per weight.

    The paper's runs on GLUE also adapt the outputs of attention and MLP.
    """

    method = "lora_xs"

    r: int = setting(16, "Rank of ΔW.", gt=0)
    alpha: float = setting(16.0, "ΔW is scaled by alpha / r.", ne=0)
    save_bases: bool = setting(
        False, "Save A and B with the adapter, so that it does not depend on how another machine computes them."
    )


@register(
    "lora_xs",
    config=LoraXSConfig,
    paper="LoRA-XS, arXiv 2405.17604",
    trains="an r × r matrix between the leading singular vectors of W0",
    group="relative",
)
class LoraXS(SingularMethod[LoraXSConfig]):
    """ΔW = alpha / r · U_r Σ_r R V_rᵀ."""

    def factors(self, site: Site) -> dict[str, Factor]:
        r = min(self.config.r, site.out_features, site.in_features)
        init = nn.init.zeros_ if self.config.init_weights else partial(nn.init.normal_, std=0.2)
        return {"r": Factor((r, r), init)}

    def check(self, sites: Sequence[Site]) -> list[str]:
        if small := [s for s in sites if self.config.r > min(s.out_features, s.in_features)]:
            s = small[0]
            warnings.warn(
                f"lora_xs: r = {self.config.r} exceeds the number of singular values of {s} ({s.out_features}, "
                f"{s.in_features}), which uses all of them",
                stacklevel=2,
            )
        return []

    def derive(self, site: Site, w0: Float[Tensor, "o i"]) -> dict[str, Tensor]:
        r, (u, sigma, v) = self.config.r, self.decomposition(site, w0)
        a, b = (u[:, :r] * sigma[:r]).to(u.dtype), v[:, :r].contiguous()
        return {"a": a.to(w0.device), "b": b.to(w0.device)}

    def sketch(self, w0: Callable[[], Tensor], f: Factors, left: Tensor, right: Tensor) -> Tensor | None:
        a_r, b = self.low_rank(left, {name: t.cpu().double() for name, t in f.items()})
        return (left.double().T @ a_r) @ (b.T @ right.double())

    def low_rank(self, w0: Tensor, f: Factors) -> tuple[Float[Tensor, "o r"], Float[Tensor, "i r"]]:
        r = self.config.alpha / self.config.r * f["r"]
        return f["a"].to(r.dtype) @ r, f["b"].to(r.dtype)

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"]:
        left, right = self.low_rank(w0, f)
        return left @ right.T
