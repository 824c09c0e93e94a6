"""SA²VP: a map of prompts passes through the same blocks and exchanges with the image (arXiv 2312.10376).

    h_l         tokens of the image after block l, a class token and a g × g grid             (g² + 1, d)
    p_0         M W_mᵀ + b_m + the position embeddings                                        M (g² + 1, q)
    A_l(y, x)   block l's frozen attention from LN_1 y to LN_1 x, in which the class token sees all tokens and a patch
                its neighbourhood of 3 × 3 patches
    C_l(y, x)   W_2 GELU(W_1 LN(y + A_l(y, x)) + b_1) + b_2, with trained LN, W_1 (q, d), W_2 (d, q)
    l = 1, 5, … h_l = L_l(h_l-1),                       p_l = L_l(p_l-1) + w C_l(p_l-1, h_l-1)
    otherwise   h_l = L_l(h_l-1) + w C_l(h_l-1, p_l-1), p_l = L_l(p_l-1)

At blocks 5, 9, … another map is added to p_l: s ⊙ L_l(M W_mᵀ + b_m), with trained s (d,). The last block always adds to
the image, so that everything that is trained has a part in the prediction.
The loss in training is (1 − v) ℓ(h_L) + v ℓ(p_L), where ℓ is the task's loss after the model's last normalisation and
its head, which both share; h_L alone predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genft.api.config import PaperStartConfig, setting
from genft.api.method import BlockMethod, BlockSite, Factor, Factors, FrozenBlock
from genft.api.registry import register
from genft.errors import ConfigError
from genft.methods.bottleneck import bottleneck, bottleneck_factors
from genft.methods.vapt import Grid

#: The first of this many blocks adapts from the image to the prompts.
GROUP = 4


@dataclass
class SA2VPConfig(PaperStartConfig):
    """Configuration of SA²VP; for L blocks of width d, with D = L / 4 maps, it trains
    D·(q·(g² + 1) + q·d + d) + (D − 1)·d + L·(2·q·d + q + 3·d) parameters.

    It needs a class token, square grids of patches, and position embeddings.
    """

    method = "sa2vp"

    inner: int = setting(16, "q: width of the prompt maps and of the adapted MLPs (8 to 64, chosen per task).", gt=0)
    weight: float = setting(0.1, "w: weight of what one stream adds to the other (0.1, 0.5 or 1.5, per task).")
    grid: int = setting(14, "g: patches per side of an image; genft's own runs take it from the model.", gt=0)
    prompt_loss: float = setting(
        0.2,
        "v: weight of the loss of the head on the prompt map, in genft's own runs; the image's has 1 - v.",
        ge=0,
        lt=1,
    )
    dropout: float = setting(0.1, "Dropout on prompts, attention and MLP of the exchange in training.", ge=0, lt=1)


def neighbourhood(grid: int, device: torch.device) -> Bool[Tensor, "t t"]:
    """Which of g² + 1 tokens sees which: the class token all, a patch the patches at most one row and column away."""
    row, column = (
        torch.arange(grid, device=device).repeat_interleave(grid),
        torch.arange(grid, device=device).repeat(grid),
    )
    near = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
    return F.pad(F.pad(near, (1, 0), value=False), (0, 0, 1, 0), value=True)


class BothStreams(Grid):
    """Derives the grid, and trains what the head says of the prompt map, too."""

    def loss(self, model: Any, config: SA2VPConfig, of_outputs: Callable[[], Tensor]) -> Tensor:
        if not config.prompt_loss:
            return of_outputs()
        with model.base_model.adapters[model.active_adapter].carried.both_streams() as show:
            of_image = of_outputs()
            show()
            return (1 - config.prompt_loss) * of_image + config.prompt_loss * of_outputs()


@register(
    "sa2vp",
    config=SA2VPConfig,
    paper="SA²VP, arXiv 2312.10376",
    trains="a map of prompts in a second stream through the blocks, and MLPs for the exchange of both streams",
    group="paper",
    kinds=("image",),
    recipe=BothStreams(),
)
class SA2VP(BlockMethod[SA2VPConfig]):
    """The second stream, and what the streams add to each other."""

    @staticmethod
    def _to_prompts(site: BlockSite) -> bool:
        return site.index % GROUP == 0 and not site.last

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        c, d, xavier = self.config, site.out_features, nn.init.xavier_uniform_
        bias = partial(nn.init.normal_, std=1e-6)
        spread = 0.02 if c.init_weights else 1.0
        factors = bottleneck_factors(d, c.inner, xavier, xavier)
        factors |= {"norm_weight": Factor((d,), nn.init.ones_), "norm_bias": Factor((d,), nn.init.zeros_)}
        if site.first or self._to_prompts(site):
            factors["map"] = Factor((c.grid**2 + 1, c.inner), partial(nn.init.trunc_normal_, std=spread))
            factors |= {"map_weight": Factor((d, c.inner), xavier), "map_bias": Factor((d,), bias)}
        if self._to_prompts(site) and not site.first:
            factors["map_scale"] = Factor((d,), partial(nn.init.normal_, std=spread))
        return factors

    def second_stream(
        self,
        x: Float[Tensor, "b t d"],
        p: Float[Tensor, "b t d"] | None,
        block: FrozenBlock,
        site: BlockSite,
        f: Factors,
        *,
        training: bool,
    ) -> tuple[Float[Tensor, "b t d"] | None, Float[Tensor, "b t d"] | None]:
        c = self.config
        if p is None:
            start = F.linear(f["map"], f["map_weight"], f["map_bias"]) + self._positions(x, block)
            p = F.dropout(start.expand_as(x), c.dropout, training)
        if not self._to_prompts(site):
            added = c.weight * self._exchange(x, p, block, f, training)
            return added, block.run(p) if block.read_after_last or not site.last else None
        added = c.weight * self._exchange(p, x, block, f, training)
        after = block.run(p)
        if "map_scale" in f:
            after = after + f["map_scale"] * block.run(F.linear(f["map"], f["map_weight"], f["map_bias"]).expand_as(x))
        return None, after + added

    def _exchange(
        self, y: Float[Tensor, "b t d"], x: Float[Tensor, "b t d"], block: FrozenBlock, f: Factors, training: bool
    ) -> Float[Tensor, "b t d"]:
        """C(y, x)."""
        dropped = partial(F.dropout, p=self.config.dropout, training=training)
        mask = neighbourhood(self.config.grid, x.device)
        y = y + dropped(block.attention(block.norm(y), block.norm(x), mask))
        y = F.layer_norm(y, y.shape[-1:], f["norm_weight"], f["norm_bias"], 1e-6)
        return dropped(bottleneck(y, f, F.gelu, self.config.dropout, training))

    def _positions(self, x: Float[Tensor, "b t d"], block: FrozenBlock) -> Float[Tensor, "t d"]:
        """The position embeddings of the tokens, which must be those that the configuration expects."""
        c, tokens, positions = self.config, x.shape[1], block.positions
        if tokens != c.grid**2 + 1:
            raise ConfigError(
                f"grid: received {c.grid}, i.e. {c.grid**2} patches and a class token; this model's blocks read "
                f"{tokens} tokens"
            )
        own = 0 if positions is None else round((len(positions) - 1) ** 0.5)
        if positions is None or len(positions) != own**2 + 1:
            raise ConfigError(
                "sa2vp: needs position embeddings of a class token and a square grid, which this model does not add "
                "before its first block"
            )
        if own == c.grid:
            return positions.to(x.dtype)
        # images of another size: interpolated as transformers does for the image's own tokens
        of_grid = positions[1:].float().unflatten(0, (own, own)).permute(2, 0, 1)[None]
        resized = F.interpolate(of_grid, size=(c.grid, c.grid), mode="bicubic", align_corners=False)
        return torch.cat([positions[:1].float(), resized[0].flatten(1).T]).to(x.dtype)
