"""Visual prompt tuning: trained tokens inserted among the tokens of an image (arXiv 2203.12119, Eq. 4 to 8).

    E_l     patch tokens after block l; x_l the class token                (196, d), (d,)
    P_l     prompts of block l, trained                                    (p, d)
    shallow [x_1, Z_1, E_1] = L_1([x_0, P_0, E_0]); [x_l, Z_l, E_l] = L_l([x_l-1, Z_l-1, E_l-1])
    deep    [x_l, _, E_l] = L_l([x_l-1, P_l-1, E_l-1])

The class token is first, followed by the prompts. They are removed after the last block, so the head, or a pooling over
patches, never sees them. The initialisation is the paper's: P ~ U(-v, v), v² = 6 / (3 · patch² + d), Xavier's bound for
the patch embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import PaperStartConfig, setting
from genft.api.method import BlockMethod, BlockSite, Factor, Factors, Init
from genft.api.registry import register


@dataclass
class VPTConfig(PaperStartConfig):
    """Settings of both forms. The prompt lengths of the paper are 1, 5, 10, 50, 100 and 200, chosen for each task."""

    prompts: int = setting(50, "p: number of prompts.", gt=0)
    dropout: float = setting(
        0.0, "Dropout on the prompts in training (0 in the authors' code, 0.1 in later work).", ge=0, lt=1
    )
    patch_size: int = setting(16, "Side of a patch in pixels; it only sets the scale of the initial prompts.", gt=0)


@dataclass
class VPTDeepConfig(VPTConfig):
    """Configuration of VPT-Deep; trains p·d numbers per block of width d.

    The default is the paper's length nearest to its mean over VTAB-1k (0.56 M on ViT-B/16, p = 60).
    """

    method = "vpt_deep"


@dataclass
class VPTShallowConfig(VPTConfig):
    """Configuration of VPT-Shallow; trains p·d numbers in total, at the first adapted block.

    The default is the length of the usual comparison on VTAB-1k (V-PETL: 0.08 M on ViT-B/16).
    """

    method = "vpt_shallow"

    prompts: int = setting(100, "p: number of prompts.", gt=0)


class VPT(BlockMethod[VPTConfig]):
    """The prompts P at a block's input, with dropout."""

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        bound = (6 / (3 * self.config.patch_size**2 + site.out_features)) ** 0.5
        init: Init = partial(nn.init.uniform_, a=-bound, b=bound) if self.config.init_weights else nn.init.normal_
        return {"prompts": Factor((self.config.prompts, site.out_features), init)}

    def prompts(self, x: Float[Tensor, "b t d"], f: Factors, *, training: bool) -> Float[Tensor, "*b p d"] | None:
        return F.dropout(f["prompts"], self.config.dropout, training)


@register(
    "vpt_deep",
    config=VPTDeepConfig,
    paper="VPT, arXiv 2203.12119",
    trains="prompts at every block",
    group="paper",
    kinds=("image",),
)
class VPTDeep(VPT):
    """The prompts of a block are removed after it, because the next block has its own."""

    def spent_prompts(self, site: BlockSite) -> int:
        return self.config.prompts


@register(
    "vpt_shallow",
    config=VPTShallowConfig,
    paper="VPT, arXiv 2203.12119",
    trains="prompts at the first block",
    kinds=("image",),
)
class VPTShallow(VPT):
    """The prompts of the first block pass through all others."""

    def factors(self, site: BlockSite) -> dict[str, Factor]:
        return super().factors(site) if site.first else {}

    def prompts(self, x: Float[Tensor, "b t d"], f: Factors, *, training: bool) -> Float[Tensor, "*b p d"] | None:
        return super().prompts(x, f, training=training) if f else None

    def passing_prompts(self, site: BlockSite) -> int:
        return 0 if site.first else self.config.prompts

    def spent_prompts(self, site: BlockSite) -> int:
        return self.config.prompts if site.last else 0
