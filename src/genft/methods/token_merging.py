"""Merging tokens once, after the attention of one block: what FPET adds to other methods (arXiv 2503.20282).

    K           keys of the block, mean over its heads, without gradient           (t, h)
    m           K + Q(W_up) ReLU(Q(W_down) K), with trained W_down, W_up           (t, h)
    Q(W)        Φ⁻¹(¾) σ sign(W − μ) + μ: one bit per weight, μ and σ those of all its entries
    A, B        patches whose row + column is even, odd: the two colours of a checkerboard
    S           cosines of m, from A to B                                          (A, B)
    τ           mean of the two largest scores, for every patch of A               (A, 1)
    M           1 where S > τ, i.e. only at the largest score, otherwise 0; its gradient is that of sigmoid(S − τ)
    s           1 + Mᵀ 1, how many patches a patch of B stands for                 (B,)
    x'          the class token, and (x_B + Mᵀ x_A) / s                            (1 + B, d)

Later blocks add log s to the scores of their attention. The gradient of sign(·) is that of its argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from genft.api.config import PaperStartConfig, setting
from genft.api.method import BlockMethod, BlockSite, Factor, Factors
from genft.errors import ConfigError
from genft.methods.bottleneck import bottleneck, bottleneck_factors, prefixed, under
from genft.methods.vapt import Grid
from genft.models.blocks import find_blocks
from genft.ops.entries import no_autocast
from genft.ops.initial import linear_

#: Where one bit rounds a normal variable to: the median of its absolute value.
LEVEL = NormalDist().inv_cdf(0.75)
#: Prefix of the factors that refine the keys.
REFINE = "refine_"


@dataclass
class MergingConfig(PaperStartConfig):
    """What methods that merge tokens share. They need a class token and square grids of patches."""

    layer: int = setting(
        6,
        "Index, from 0, of the adapted block after whose attention tokens are merged; genft's runs take the middle.",
        ge=0,
    )
    refine: int = setting(32, "Width of the one-bit adapter that refines the keys by which tokens are compared.", gt=0)
    dropout: float = setting(0.1, "Dropout on the bottlenecks in training.", ge=0, lt=1)


ConfigT = TypeVar("ConfigT", bound=MergingConfig)


def checkerboard(grid: int, device: torch.device) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"]]:
    """Indices of the patches of a grid (row by row) whose row + column is even, and odd."""
    side = torch.arange(grid, device=device)
    colour = ((side[:, None] + side) % 2).flatten()
    order = colour.argsort(stable=True)  # nonzero's sizes would depend on values, which breaks torch.compile's graph
    return order[: (grid**2 + 1) // 2], order[(grid**2 + 1) // 2 :]


def one_bit(w: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
    """Q(W), with a gradient as if the rounding added a constant."""
    mean, std = w.mean(), w.std()
    normal = (w - mean) / (std + 1e-5)
    return (LEVEL * normal.detach().sign() + (normal - normal.detach())) * std + mean


def matching(scores: Float[Tensor, "n a b"]) -> Float[Tensor, "n a b"]:
    """M from the scores S: zeros and ones, with the gradient of sigmoid(S − τ)."""
    above = scores - scores.topk(2, dim=-1).values.mean(-1, keepdim=True)
    soft = above.sigmoid()
    return (above > 0).to(soft.dtype) + (soft - soft.detach())


def merged(
    x: Float[Tensor, "n t d"], metric: Float[Tensor, "n t h"], grid: int
) -> tuple[Float[Tensor, "n u d"], Float[Tensor, "n u"]]:
    """(x', s): a class token and g² patches become a class token and ⌊g² / 2⌋ patches."""
    a, b = checkerboard(grid, x.device)
    metric = metric.to(torch.promote_types(metric.dtype, torch.float32))
    directions = (metric / metric.norm(dim=-1, keepdim=True))[:, 1:]
    m = matching(directions[:, a] @ directions[:, b].mT).to(x.dtype)
    patches, sizes = x[:, 1:], 1 + m.sum(1)
    new = (patches[:, b] + m.mT @ patches[:, a]) / sizes[..., None]
    return torch.cat([x[:, :1], new], 1), F.pad(sizes, (1, 0), value=1.0)


class Middle(Grid):
    """Merges in the middle block, which is the paper's of its twelve; refuses images whose patches are no square."""

    def settings(self, model: Any, steps: int, image_size: int | None = None) -> dict[str, Any]:
        super().settings(model, steps, image_size)
        blocks = len(find_blocks(model))
        return {"layer": max(0, min(blocks // 2, blocks - 2))}


class Merging(BlockMethod[ConfigT]):
    """The merge of tokens, for methods that adapt the blocks in ways of their own."""

    def check(self, sites: Sequence[BlockSite]) -> list[str]:
        # after the last block's attention nothing that is merged would reach the class token any more
        most = len(sites) - 2
        if self.config.layer <= most:
            return []
        allowed = f"0 to {most}" if most > 0 else "0" if most == 0 else "nothing, because it needs two blocks or more"
        return [f"layer: received {self.config.layer}; allowed: {allowed}, of {len(sites)} adapted blocks"]

    def merges(self, site: BlockSite) -> bool:
        return site.index == self.config.layer

    def refinement(self, site: BlockSite) -> dict[str, Factor]:
        """The factors of the adapter of keys, in the block that merges."""
        if not self.merges(site):
            return {}
        up = partial(nn.init.trunc_normal_, std=0.001, a=-0.002, b=0.002)
        return prefixed(REFINE, bottleneck_factors(site.head_width, self.config.refine, linear_, up, biases=False))

    def merge(
        self, x: Float[Tensor, "n t d"], keys: Float[Tensor, "n heads t h"], f: Factors, *, training: bool
    ) -> tuple[Float[Tensor, "n u d"], Float[Tensor, "n u"]]:
        grid = round((x.shape[1] - 1) ** 0.5)
        if grid < 2 or x.shape[1] != grid**2 + 1:
            raise ConfigError(
                f"{self.config.method}: needs a class token and a square grid of 2 × 2 patches or more; this model's "
                f"blocks read {x.shape[1]} tokens"
            )
        # not in half precision: if the two largest scores are equal, a patch is merged with nothing and lost
        with no_autocast(x.device):
            k = keys.detach().mean(1)
            weights = {name: one_bit(w) for name, w in under(REFINE, f).items()}
            return merged(x, k + bottleneck(k, weights, F.relu, self.config.dropout, training), grid)
