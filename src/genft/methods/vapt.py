"""Visual adaptive prompt tuning: prompts generated from a block's patch tokens, per image (arXiv 2501.18936).

    E_l             patch tokens that block l + 1 reads, a g × g grid                 (g², d)
    LN_l            layer normalisation with trained γ, β                             norm_weight, norm_bias (d,)
    K_l             one kernel for all channels, without padding                      kernel (k, k)
    α_l             from m = (g − k + 1)² positions to p prompts                      token_weight (p, m), token_bias
    φ               x + W_2 ReLU(W_1 x), shared by all blocks                         mlp_down (h, d), mlp_up (d, h)
    P_l             φ(α_l(K_l * LN_l(E_l)))                                           (p, d), for every image
    block 1         P_0 are trained as in VPT                                         prompts (p, d)

The prompts follow the class token and are removed after the block, as in VPT-Deep. α_l starts at zero, and so do the
prompts of all blocks but the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import setting
from genft.api.method import BlockSite, Factor, Factors, Init
from genft.api.recipe import Recipe
from genft.api.registry import register
from genft.errors import ConfigError
from genft.methods.vpt import VPTConfig, VPTDeep
from genft.ops.initial import linear_


@dataclass
class VAPTConfig(VPTConfig):
    """Configuration of VAPT; for L blocks of width d it trains
    p·d + 2·h·d + (L − 1)·(2·d + k² + p·(m + 1)) parameters.

    It needs a class token and square grids of patches.
    """

    method = "vapt"

    prompts: int = setting(10, "p: number of prompts (5 to 100, searched per task).", gt=0)
    grid: int = setting(14, "g: patches per side of an image; genft's own runs take it from the model.", gt=0)
    kernel: int = setting(2, "k: side length of the kernel.", gt=0)
    hidden: int = setting(8, "h: width of the shared MLP.", gt=0)
    dropout: float = setting(
        0.1, "Dropout on the first block's prompts, on channels after the kernel, and in the MLP.", ge=0, lt=1
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.kernel > self.grid:
            problems.append(f"kernel: received {self.kernel}; allowed: at most the grid, which is {self.grid}")
        return problems


class Grid(Recipe):
    """Derives the grid from the patch size and the size of the images, which may differ from the model's own."""

    def settings(self, model: Any, steps: int, image_size: int | None = None) -> dict[str, Any]:
        if (inner := getattr(model, "timm_model", None)) is not None:
            own, patch = inner.patch_embed.img_size, inner.patch_embed.patch_size
        else:
            own, patch = (getattr(model.config, name) for name in ("image_size", "patch_size"))
        rows, columns = (a // b for a, b in zip(_sides(image_size or own), _sides(patch), strict=True))
        if rows != columns:
            raise ConfigError(f"grid: this method needs square grids of patches; this model has {rows} × {columns}")
        return {"grid": rows}


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


@register(
    "vapt",
    config=VAPTConfig,
    paper="VAPT, arXiv 2501.18936",
    trains="kernels and a shared MLP that generate each block's prompts from the image's tokens",
    group="paper",
    kinds=("image",),
    recipe=Grid(),
)
class VAPT(VPTDeep):
    """φ(α(K * LN(E))), and VPT's prompts at the first block."""

    config: VAPTConfig
    shares_factors = True

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        if site.first:
            return super().factors(site)
        c, d = self.config, site.out_features
        zero: Init = nn.init.zeros_ if c.init_weights else nn.init.normal_
        return {
            "norm_weight": Factor((d,), nn.init.ones_),
            "norm_bias": Factor((d,), nn.init.zeros_),
            "kernel": Factor((c.kernel, c.kernel), nn.init.normal_),
            "token_weight": Factor((c.prompts, (c.grid - c.kernel + 1) ** 2), zero),
            "token_bias": Factor((c.prompts,), zero),
            "mlp_down": Factor((c.hidden, d), linear_, f"mlp_down_{d}"),
            "mlp_up": Factor((d, c.hidden), linear_, f"mlp_up_{d}"),
        }

    def prompts(self, x: Float[Tensor, "b t d"], f: Factors, *, training: bool) -> Float[Tensor, "*b p d"] | None:
        if "prompts" in f:
            return super().prompts(x, f, training=training)
        c, (batch, tokens, d) = self.config, x.shape
        if tokens != c.grid**2 + 1:
            raise ConfigError(
                f"grid: received {c.grid}, i.e. {c.grid**2} patches and a class token; this model's blocks read "
                f"{tokens} tokens"
            )
        e = F.layer_norm(x, (d,), f["norm_weight"], f["norm_bias"])[:, 1:].unflatten(1, (c.grid, c.grid))
        left = c.grid - c.kernel + 1
        shifts = [(a, b) for a in range(c.kernel) for b in range(c.kernel)]
        z = torch.stack([f["kernel"][a, b] * e[:, a : a + left, b : b + left] for a, b in shifts]).sum(0).flatten(1, 2)
        z = z * F.dropout(z.new_ones(batch, 1, d), c.dropout, training)
        # contiguous: otherwise torch rounds a product with a trained tensor differently than with a frozen one
        p = F.linear(z.transpose(1, 2).contiguous(), f["token_weight"], f["token_bias"]).transpose(1, 2).contiguous()
        return p + F.linear(F.dropout(F.relu(F.linear(p, f["mlp_down"])), c.dropout, training), f["mlp_up"])
