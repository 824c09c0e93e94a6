"""E²VPT: prompts at the input and in the attention of every block, the least important pruned (arXiv 2307.13770).

    P_l     prompts of block l, trained                                                      prompts (p, d)
    V_l     key-value prompts of block l, trained                                            key_values (n, d)
    ρ, ζ    masks of prompts (p,) and of their R segments (p, R), the same in all blocks
    block   [x_l, _, E_l] = L_l([x_l-1, ρ ⊙ ζ ⊙ P_l-1, E_l-1])
    head    softmax(Q [V_l; K]ᵀ / √d_h) [V_l; V]

Training has two phases. In the first, ρ = ζ = 1. Then a prompt's importance is E |∂loss/∂ρ_k| over batches of training
examples, and a segment's is E |∂loss/∂ζ_kj|; the least important ones get a mask of zero, and all training starts again
from the same initial values (:class:`Pruning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import setting
from genft.api.method import BlockSite, Factor, Factors, Init
from genft.api.recipe import Losses, Recipe
from genft.api.registry import register
from genft.methods.vpt import VPTConfig, VPTDeep

#: At least this many prompts, and segments of a prompt, are kept.
LEAST_PROMPTS, LEAST_SEGMENTS = 1, 4


@dataclass
class E2VPTConfig(VPTConfig):
    """Configuration of E²VPT; trains (p + n)·d parameters per block of width d."""

    method = "e2vpt"

    prompts: int = setting(10, "p: number of prompts (1 to 32, chosen per task).", gt=0)
    key_values: int = setting(5, "n: number of key-value prompts (1 to 10, chosen per task).", gt=0)
    segments: int = setting(16, "R: segments of a prompt that are pruned separately; divides the width.", gt=0)
    prune_prompts: float = setting(
        0.5, "Share of the prompts that is pruned after a first training (0.1 to 0.9, searched per task).", ge=0, le=1
    )
    prune_segments: float = setting(
        0.5, "Share of every prompt's segments that is pruned after a first training; likewise.", ge=0, le=1
    )
    batches: int = setting(16, "Batches of training examples over which the importance is averaged.", gt=0)
    batch_size: int = setting(64, "Examples in each of these batches.", gt=0)
    kept: list[str] | None = setting(
        None,
        "What is kept: for every prompt a text of ones and zeros, one per segment; a run fills it in, and it is saved "
        "with the adapter.",
        repr=False,
    )
    head_width: int = setting(
        64, "Width of an attention head; it only sets the scale of the initial key-value prompts.", gt=0
    )
    dropout: float = setting(0.1, "Dropout on the prompts in training.", ge=0, lt=1)

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.kept is not None and (
            not isinstance(self.kept, list)
            or len(self.kept) != self.prompts
            or any(not isinstance(k, str) or len(k) != self.segments or set(k) - {"0", "1"} for k in self.kept)
        ):
            problems.append(
                f"kept: received {self.kept!r}; allowed: {self.prompts} texts of {self.segments} digits 0 or 1"
            )
        return problems


class Pruning(Recipe):
    """Finds out, in the trained model, which prompts and segments are least important."""

    def found_after_training(self, model: Any, config: E2VPTConfig, losses: Losses) -> dict[str, Any]:
        if config.kept is not None or not (config.prune_prompts or config.prune_segments):
            return {}
        own = model.base_model.own_parameters(model.active_adapter)
        prompts = [parameter for name, parameter in own.items() if name.endswith(".prompts")]
        of_segments = torch.zeros(config.prompts, config.segments, dtype=torch.float64)
        of_prompts = of_segments.sum(1)
        for loss in losses(config.batches, config.batch_size):
            gradients = torch.autograd.grad(loss, prompts)
            # a mask of one multiplies P in every block, so its gradient is Σ_l ⟨P_l, ∂loss/∂P_l⟩ over what it masks
            products = torch.stack([p.detach() * g for p, g in zip(prompts, gradients, strict=True)]).cpu().double()
            zeta = products.sum(0).unflatten(1, (config.segments, -1)).sum(-1)
            of_segments += zeta.abs()
            of_prompts += zeta.sum(1).abs()
        return {"kept": choose(of_prompts, of_segments, config)}


def choose(of_prompts: Float[Tensor, " p"], of_segments: Float[Tensor, "p r"], config: E2VPTConfig) -> list[str]:
    """``kept``, from the importance of every prompt and of each of its segments."""
    p, r = of_segments.shape
    rho, zeta = torch.ones(p, 1, dtype=torch.long), torch.ones(p, r, dtype=torch.long)
    fewer = min(int(p * config.prune_prompts), max(p - LEAST_PROMPTS, 0))
    rho[of_prompts.argsort(stable=True)[:fewer]] = 0
    fewer = min(int(r * config.prune_segments), max(r - LEAST_SEGMENTS, 0))
    zeta.scatter_(1, of_segments.argsort(dim=1, stable=True)[:, :fewer], 0)
    return ["".join(map(str, row)) for row in (rho * zeta).tolist()]


@register(
    "e2vpt",
    config=E2VPTConfig,
    paper="E²VPT, arXiv 2307.13770",
    trains="prompts at every block and in its attention's keys and values, the least important pruned",
    group="paper",
    kinds=("image",),
    recipe=Pruning(),
)
class E2VPT(VPTDeep):
    """ρ ⊙ ζ ⊙ P among the tokens, and V among the keys and values."""

    config: E2VPTConfig

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        n, d = self.config.key_values, site.out_features
        bound = (6 / (n * self.config.head_width)) ** 0.5  # Kaiming's for (heads, n, head_width)
        init: Init = partial(nn.init.uniform_, a=-bound, b=bound) if self.config.init_weights else nn.init.normal_
        return super().factors(site) | {"key_values": Factor((n, d), init)}

    def check(self, sites: Sequence[BlockSite]) -> list[str]:
        r = self.config.segments
        return [
            f"segments: received {r}; must divide the width of {site}, which is {site.out_features}"
            for site in sites[:1]
            if site.out_features % r
        ]

    def prompts(self, x: Float[Tensor, "b t d"], f: Factors, *, training: bool) -> Float[Tensor, "p d"]:
        p = F.dropout(f["prompts"], self.config.dropout, training)
        if self.config.kept is None:
            return p
        mask = p.new_tensor([[float(digit) for digit in row] for row in self.config.kept])
        return p * mask.repeat_interleave(p.shape[1] // self.config.segments, dim=1)

    def prefix(self, f: Factors, *, training: bool) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        return f["key_values"], f["key_values"]
