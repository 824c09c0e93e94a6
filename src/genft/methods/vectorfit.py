"""VectorFit: train the singular values and the biases of pretrained weights (arXiv 2503.19530).

    paper                             here
    W0 = U Σ Vᵀ, frozen U, V          u (o, k), v (i, k), k = min(o, i); Σ0 = diag(sigma)
    Σ, trained                        sigma_bias (k,): Σ = diag(sigma + δ), δ = sigma_bias, or sigma ∘ it (relative)
    b, trained                        bias (o,): an offset of the pretrained bias
    ΔW = U diag(δ) Vᵀ                 (o, i), zero at the start
    adaptive vector freezing          methods/vector_freezing.py

W0 itself is kept and offsets are trained, so training starts exactly at the pretrained function. A weight trains
min(o, i) + o numbers, or min(o, i) without a bias. The authors have released no code; the constants of adaptive vector
freezing are unverified. The forms of the computation are in ``ops/spectral.py``.

Both names contain "bias", by which transformers.Trainer, timm and others recognise parameters without weight decay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.method import Base, Factor, Factors, Site
from genft.api.recipe import Recipe
from genft.api.registry import register
from genft.errors import ConfigError
from genft.methods.singular import SingularMethod
from genft.methods.vector_freezing import AdaptiveVectorFreezing
from genft.methods.vectorfit_config import VectorFitConfig
from genft.ops import plan, spectral
from genft.ops.tracing import is_traced, is_transformed


class VectorRates(Recipe):
    """Separate learning rates for singular values and biases, which have different units."""

    def learning_rate(self, config: VectorFitConfig, name: str) -> float:
        if name.endswith("sigma_bias"):
            return config.sigma_lr_ratio
        return config.bias_lr_ratio if name.endswith("bias") else 1.0


@register(
    "vectorfit",
    config=VectorFitConfig,
    paper="VectorFit, arXiv 2503.19530",
    trains="singular values and biases of every weight in a block, with adaptive vector freezing",
    group="relative",
    recipe=VectorRates(),
)
class VectorFit(SingularMethod[VectorFitConfig]):
    """ΔW = U diag(δ) Vᵀ and Δb = bias."""

    is_linear = True

    def __init__(self, config: VectorFitConfig) -> None:
        super().__init__(config)
        self.freezing: AdaptiveVectorFreezing | None = None

    def factors(self, site: Site) -> dict[str, Factor]:
        init = nn.init.zeros_ if self.config.init_weights else partial(nn.init.normal_, std=0.3)
        factors = {}
        if self.config.train_sigma:
            factors["sigma_bias"] = Factor((min(site.out_features, site.in_features),), init)
        if self.config.train_bias and site.has_bias:
            factors["bias"] = Factor((site.out_features,), init)
        return factors

    def check(self, sites: Sequence[Site]) -> list[str]:
        if self.config.train_sigma or any(site.has_bias for site in sites):
            return []
        return ["train_bias: none of the adapted weights has a bias; set train_sigma=True"]

    # ---------------------------------------------------------------- the decomposition

    def prepare(self, weights: Mapping[Site, Callable[[], Tensor]]) -> None:
        if self.config.train_sigma:
            super().prepare(weights)

    def derive(self, site: Site, w0: Tensor) -> dict[str, Tensor]:
        """``sigma`` with ``u`` and ``v``, or, in the lean form, with the smaller of the two alone."""
        if not self.config.train_sigma:
            return {}
        svd = self.decomposition(site, w0)
        if self.config.lean and svd.u.dtype not in (torch.float32, torch.float64):
            raise ConfigError(f"lean: needs base weights in float32; {site} is in {svd.u.dtype}")
        kept = svd._asdict()
        if self.config.lean:
            del kept["v" if site.out_features < site.in_features else "u"]
        return {name: value.to(w0.device) for name, value in kept.items()}

    def sketch(self, w0: Callable[[], Tensor], f: Factors, left: Tensor, right: Tensor) -> Tensor | None:
        if "sigma" not in f:
            return None
        delta, left, right = self._delta(f).cpu().float(), left.float(), right.float()
        if not self.config.lean:
            return (left.T @ f["u"].cpu().float() * delta) @ (f["v"].cpu().float().T @ right)
        q, w = f["u" if "u" in f else "v"].cpu().float(), w0().cpu().float()
        scale = delta * spectral.inverse(f["sigma"]).cpu().float()
        return (left.T @ q * scale) @ (q.T @ (w @ right)) if "u" in f else (left.T @ w @ q * scale) @ (q.T @ right)

    # ---------------------------------------------------------------- the update, in its forms

    def _delta(self, f: Factors) -> Float[Tensor, " k"]:
        """δ, the offset of the singular values."""
        return f["sigma"] * f["sigma_bias"] if self.config.relative else f["sigma_bias"]

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"] | None:
        if "sigma_bias" not in f:
            return None
        if self.config.lean:
            return spectral.one_sided_delta_weight(w0, _scale(self._delta(f), f), f["u" if "u" in f else "v"])
        return spectral.delta_weight(f["u"], self._delta(f), f["v"])

    def delta_bias(self, b0: Float[Tensor, " o"] | None, f: Factors) -> Float[Tensor, " o"] | None:
        return f.get("bias")

    def low_rank(
        self, w0: Float[Tensor, "o i"], f: Factors
    ) -> tuple[Float[Tensor, "o k"], Float[Tensor, "i k"]] | None:
        if "sigma_bias" not in f or self.config.lean:
            return None
        left = f["u"] * self._delta(f)
        return left, f["v"].to(left.dtype)

    def linear(self, x: Tensor, base: Base, bias: Tensor | None, f: Factors, shape: plan.Shape) -> Tensor | None:
        if "sigma_bias" not in f or is_transformed():
            return None
        lean, delta = self.config.lean, self._delta(f)
        exact = self.config.exact and (not shape.exact_sum or _may_be_zero(delta))
        form = plan.choose(replace(shape, rank=len(delta), bases=1 if lean else 2, exact=exact), self.config.plan)
        if form in ("weight", "beside") or (lean and not shape.exact_sum):
            return None
        if lean:
            return _lean(x, base, bias, _scale(delta, f), f)
        u, sigma, v = f["u"], f["sigma"], f["v"]
        if form == "published" and x.dtype == delta.dtype == u.dtype:  # autograd then needs no help
            return spectral.expand(spectral.project(x, v), sigma + delta, u, bias)
        z = None
        with torch.no_grad():
            scale = sigma + delta
            if form == "materialised":
                y = base(x, spectral.delta_weight(u, delta, v))
            else:
                z = spectral.project(x, v)
                if form == "published":
                    y = spectral.expand(z, scale, u, bias)
                else:
                    y = base(x)
                    y += spectral.expand(z, delta, u)
        return spectral.with_factored_gradient(y, x, z, u, scale, v, delta, bias)

    # ---------------------------------------------------------------- adaptive vector freezing

    def attached(self, adapter_name: str, trained: Callable[[], dict[str, nn.Parameter]]) -> None:
        if self.config.avf and self.config.avf_events:
            self.freezing = AdaptiveVectorFreezing(self.config, adapter_name, trained)

    def before_forward(self) -> None:
        if self.freezing is not None:
            self.freezing.before_forward()

    def derived_settings(self) -> dict[str, Any]:
        history = self.freezing.history if self.freezing else None
        return {} if history is None else {"avf_history": history}


def _may_be_zero(delta: Tensor) -> bool:
    """Whether δ may be all zeros, that is whether W0 x has to come out bit for bit. It is only looked up if that costs
    nothing: an accelerator would have to be waited for, and a traced computation cannot branch on values. After a step
    the first number tells."""
    delta = delta.detach()
    return is_traced() or delta.device.type != "cpu" or not (delta[0] or delta.any())


def _lean(x: Tensor, base: Base, bias: Tensor | None, scale: Tensor, f: Factors) -> Tensor:
    """W0 (I + V diag(δ / σ0) Vᵀ) x + b, or (I + U diag(δ / σ0) Uᵀ) W0 x + b: exact at δ = 0."""
    if "v" in f:
        return base(spectral.one_sided(x, scale, f["v"]))
    y = base(x)
    w0_x = y if bias is None else y - bias
    return y + spectral.expand(spectral.project(w0_x, f["u"]), scale, f["u"])


def _scale(delta: Tensor, f: Factors) -> Tensor:
    """δ / σ0."""
    return delta * spectral.inverse(f["sigma"])
