"""Mix-and-match adapter: a prefix in attention and a scaled adapter beside the MLP (arXiv 2110.04366, Section 4.6).

    E               embeddings of the prefix, one set for all blocks                 (l, d)
    [P_k, P_v]      tanh(E W_1 + b_1) W_2 + b_2, with W_2, b_2 of the block           (l, 2·d)
    head            softmax(Q [P_k; K]ᵀ / √d_h) [P_v; V]
    x'              MLP(x) + s · ReLU(x W_down + b_down) W_up + b_up, b_up scaled too  m in between

The prefix starts at random, so the start is not the pretrained function; W_up starts at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import PaperStartConfig, setting
from genft.api.method import BlockMethod, BlockSite, Factor, Factors
from genft.api.registry import register
from genft.methods.bottleneck import bottleneck, bottleneck_factors, prefixed, under, zero_unless
from genft.ops.initial import linear_, linear_bias_


@dataclass
class MAMConfig(PaperStartConfig):
    """Configuration of the mix-and-match adapter; by default every transformer block is adapted.

    Trains 2·d·m + m + d + 2·d·(h + 1) numbers a block of width d, and l·d + d·h + h for all blocks together. The
    defaults are those of the authors' GLUE runs (l = m = 16, s = 2, h = 800).
    """

    method = "mam"

    prefix_length: int = setting(16, "l: tokens of the prefix.", gt=0)
    prefix_hidden: int = setting(800, "h: width of the MLP that makes the prefix.", gt=0)
    bottleneck: int = setting(16, "m: width of the adapter's bottleneck.", gt=0)
    scale: float = setting(2.0, "s: factor of the adapter's output.")


@register(
    "mam",
    config=MAMConfig,
    paper="MAM adapter, arXiv 2110.04366",
    trains="a prefix of keys and values, and a bottleneck beside the MLP of every block",
    group="paper",
)
class MAM(BlockMethod[MAMConfig]):
    """A prefix made by an MLP, and s · Up(ReLU(Down x)) added to the MLP's output."""

    shares_factors = True

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        d, m = site.out_features, self.config.bottleneck
        adapter = bottleneck_factors(d, m, linear_, zero_unless(not self.config.init_weights, m))
        return prefix_factors(d, self.config.prefix_length, self.config.prefix_hidden) | prefixed("adapter_", adapter)

    def prefix(self, f: Factors, *, training: bool) -> tuple[Float[Tensor, "l d"], Float[Tensor, "l d"]]:
        keys, values = prefix_states(f).chunk(2, dim=-1)
        return keys, values

    def beside_mlp(self, x: Float[Tensor, "*t d"], f: Factors, *, training: bool) -> Float[Tensor, "*t d"]:
        return self.config.scale * bottleneck(x, under("adapter_", f), F.relu)


def prefix_factors(d: int, length: int, hidden: int, *, shared: bool = False) -> dict[str, Factor]:
    """What makes a prefix's keys and values: embeddings and an MLP d → hidden → 2·d.

    The last layer belongs to the block unless ``shared``. As in torch's and the authors' modules, embeddings start
    as N(0, 1), a linear layer as U(-1/√i, 1/√i).
    """
    return {
        "prefix_embedding": Factor((length, d), nn.init.normal_, f"prefix_embedding_{d}"),
        "prefix_hidden_weight": Factor((hidden, d), linear_, f"prefix_hidden_weight_{d}"),
        "prefix_hidden_bias": Factor((hidden,), partial(linear_bias_, fan_in=d), f"prefix_hidden_bias_{d}"),
        "prefix_weight": Factor((2 * d, hidden), linear_, f"prefix_weight_{d}" if shared else None),
        "prefix_bias": Factor((2 * d,), partial(linear_bias_, fan_in=hidden), f"prefix_bias_{d}" if shared else None),
    }


def prefix_states(f: Factors) -> Float[Tensor, "l two_d"]:
    """Keys and values side by side, (length, 2·d)."""
    hidden = torch.tanh(F.linear(f["prefix_embedding"], f["prefix_hidden_weight"], f["prefix_hidden_bias"]))
    return F.linear(hidden, f["prefix_weight"], f["prefix_bias"])
