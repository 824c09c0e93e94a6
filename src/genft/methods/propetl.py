"""ProPETL: one small network for all blocks, with a binary mask per block (arXiv 2305.17682, Section 3).

    θ       a weight of the shared network
    s_l     scores of block l, in θ's shape
    m_l     1 where |s_l| is among its largest (k of them, a share ``keep``), else 0
    θ_l     θ ⊙ m_l, the weight that block l uses
    ∂/∂s_l  sign(s_l) ⊙ ∂/∂m_l: a straight-through gradient, as if the selection were the identity

Three networks: an adapter after the MLP, a prefix, and LoRA on the weights of one role. Biases are shared and not
masked. Trained scores are saved in full, although one bit each would be enough after training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import AdapterConfig, PaperStartConfig, setting
from genft.api.method import BlockMethod, BlockSite, Factor, Factors, Init, Site, WeightMethod
from genft.api.recipe import Recipe
from genft.api.registry import register
from genft.methods.bottleneck import bottleneck, bottleneck_factors, zero_unless
from genft.methods.mam import prefix_factors, prefix_states
from genft.ops.initial import linear_

KEEP = "Share of each mask's entries that are 1."
SCORE_RATIO = "Learning rate of the scores as a multiple of the shared network's; it takes effect in genft's own runs."


class ScoreRate(Recipe):
    """A separate learning rate for scores."""

    def learning_rate(self, config: Any, name: str) -> float:
        return config.score_lr_ratio if "score" in name else 1.0


def top_mask(score: Float[Tensor, "*s"], keep: float) -> Float[Tensor, "*s"]:
    """1 at the entries of ``score`` that are largest in magnitude, 0 elsewhere, in its shape and dtype.

    Args:
        score: any shape.
        keep: the share of entries that are 1; of n entries, n - ⌊(1 - keep) n⌋.
    """
    size = score.abs()
    largest = size.flatten().topk(score.numel() - int((1 - keep) * score.numel())).indices
    chosen = torch.zeros_like(size).flatten().scatter(0, largest, 1.0).view_as(size)
    # exactly `chosen`, with the gradient of `size`
    return chosen + (size - size.detach())


def masked(f: Factors, name: str, keep: float) -> Tensor:
    """θ ⊙ m_l of one weight."""
    return f[name] * top_mask(f[f"{name}_score"], keep)


def scored(factors: dict[str, Factor], names: tuple[str, ...], key: str) -> dict[str, Factor]:
    """The factors, shared under ``key``, and the site's own scores for those in ``names``."""
    shared = {name: Factor(f.shape, f.init, f"{name}_{key}") for name, f in factors.items()}
    return shared | {f"{name}_score": Factor(factors[name].shape, linear_) for name in names}


# -------------------------------------------------------------------- adapter


@dataclass
class PropetlAdapterConfig(PaperStartConfig):
    """Configuration of ProPETL's adapter; by default every transformer block is adapted.

    Trains 2·d·m + m + d numbers for all blocks together and 2·d·m scores per block of width d. The defaults are those
    of the paper's GLUE runs on RoBERTa-base (reduction 12: m = 64, half of the entries kept, learning rates 1e-4 and
    3e-3).
    """

    method = "propetl_adapter"

    bottleneck: int = setting(64, "m: width of the bottleneck.", gt=0)
    keep: float = setting(0.5, KEEP, gt=0, le=1)
    score_lr_ratio: float = setting(30.0, SCORE_RATIO, gt=0)


@register(
    "propetl_adapter",
    config=PropetlAdapterConfig,
    paper="ProPETL, arXiv 2305.17682",
    trains="one bottleneck shared by all blocks, and a binary mask of it per block",
    group="paper",
    recipe=ScoreRate(),
)
class PropetlAdapter(BlockMethod[PropetlAdapterConfig]):
    """h + Up(ReLU(Down h)) after the MLP, with both weights masked."""

    shares_factors = True

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        d, m = site.out_features, self.config.bottleneck
        down, up = (0.02, 0.02) if self.config.init_weights else (d**-0.5, m**-0.5)
        network = bottleneck_factors(d, m, partial(nn.init.normal_, std=down), partial(nn.init.normal_, std=up))
        return scored(network, ("down_weight", "up_weight"), str(d))

    def after_mlp(self, h: Float[Tensor, "*t d"], f: Factors, *, training: bool) -> Float[Tensor, "*t d"]:
        weights = {name: masked(f, name, self.config.keep) for name in ("down_weight", "up_weight")}
        return bottleneck(h, {**f, **weights}, F.relu)


# -------------------------------------------------------------------- prefix


@dataclass
class PropetlPrefixConfig(PaperStartConfig):
    """Configuration of ProPETL's prefix; by default every transformer block is adapted.

    Trains l·d + d·h + h + 2·d·(h + 1) numbers for all blocks together and 2·l·d scores per block of width d. The
    defaults are those of the paper's GLUE runs (64 tokens, h = 512, a tenth of the entries kept, both learning
    rates 1e-4).
    """

    method = "propetl_prefix"

    prefix_length: int = setting(64, "l: number of tokens of the prefix.", gt=0)
    prefix_hidden: int = setting(512, "h: width of the MLP that generates the prefix.", gt=0)
    keep: float = setting(0.1, KEEP, gt=0, le=1)
    score_lr_ratio: float = setting(1.0, SCORE_RATIO, gt=0)


@register(
    "propetl_prefix",
    config=PropetlPrefixConfig,
    paper="ProPETL, arXiv 2305.17682",
    trains="one prefix of keys and values shared by all blocks, and a binary mask of it per block",
    group="paper",
    recipe=ScoreRate(),
)
class PropetlPrefix(BlockMethod[PropetlPrefixConfig]):
    """Keys and values of one prefix, masked for the block."""

    shares_factors = True

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        d, length = site.out_features, self.config.prefix_length
        network = prefix_factors(d, length, self.config.prefix_hidden, shared=True)
        return network | {"states_score": Factor((length, 2 * d), linear_)}

    def prefix(self, f: Factors, *, training: bool) -> tuple[Float[Tensor, "l d"], Float[Tensor, "l d"]]:
        states = masked({**f, "states": prefix_states(f)}, "states", self.config.keep)
        keys, values = states.chunk(2, dim=-1)
        return keys, values


# -------------------------------------------------------------------- LoRA


@dataclass
class PropetlLoraConfig(AdapterConfig):
    """Configuration of ProPETL's LoRA; by default query and value of every attention are adapted.

    Trains r·(i + o) numbers for all weights of one role together, and r·(i + o) scores per weight. The defaults are
    those of the paper's GLUE runs (r = 32, alpha = 48, a tenth of the entries kept, learning rates 1e-4 and 3e-2).
    """

    method = "propetl_lora"

    r: int = setting(32, "Rank.", gt=0)
    alpha: float = setting(48.0, "ΔW is scaled by alpha / r.")
    keep: float = setting(0.1, KEEP, gt=0, le=1)
    score_lr_ratio: float = setting(300.0, SCORE_RATIO, gt=0)


@register(
    "propetl_lora",
    config=PropetlLoraConfig,
    paper="ProPETL, arXiv 2305.17682",
    trains="one pair A, B shared by all weights of a role, and a binary mask of it per weight",
    group="paper",
    recipe=ScoreRate(),
)
class PropetlLora(WeightMethod[PropetlLoraConfig]):
    """ΔW = alpha / r · (B ⊙ m_B) (A ⊙ m_A)."""

    shares_factors = True

    def factors(self, site: Site) -> dict[str, Factor]:
        o, i, r = site.out_features, site.in_features, self.config.r
        b: Init = zero_unless(not self.config.init_weights, r)
        return scored({"a": Factor((r, i), linear_), "b": Factor((o, r), b)}, ("a", "b"), f"{site.role}_{o}x{i}")

    def low_rank(self, w0: Float[Tensor, "o i"], f: Factors) -> tuple[Float[Tensor, "o k"], Float[Tensor, "i k"]]:
        c = self.config
        return c.alpha / c.r * masked(f, "b", c.keep), masked(f, "a", c.keep).T

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"]:
        left, right = self.low_rank(w0, f)
        return left @ right.T
