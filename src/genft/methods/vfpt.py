"""Visual Fourier prompt tuning: some prompts of every block enter as their Fourier transform (arXiv 2411.01327).

    P_l             prompts of block l, trained                                   (p, d)
    P̂_l             Re(F_seq(F_hidden(P_l[:n]))), n = ⌊α p⌋                       (n, d)
    block           [x_l, _, E_l] = L_l([x_l-1, P̂_l-1, P_l-1[n:], E_l-1])

F_hidden and F_seq are discrete Fourier transforms over channels and over prompts. Nothing else is trained; apart
from the transform this is VPT-Deep (``methods/vpt.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genft.api.config import setting
from genft.api.method import Factors
from genft.api.registry import register
from genft.methods.vpt import VPTConfig, VPTDeep


@dataclass
class VFPTConfig(VPTConfig):
    """Configuration of VFPT; trains p·d parameters per block of width d, like VPT-Deep."""

    method = "vfpt"

    fourier: float = setting(
        0.5,
        "α: share of the prompts that enter as their Fourier transform (searched per task from 0 to 1).",
        ge=0,
        le=1,
    )
    dropout: float = setting(0.1, "Dropout on the prompts in training, before the transform.", ge=0, lt=1)


@register(
    "vfpt",
    config=VFPTConfig,
    paper="VFPT, arXiv 2411.01327",
    trains="prompts at every block, some of them in the frequency domain",
    group="paper",
    kinds=("image",),
)
class VFPT(VPTDeep):
    """[Re(F_seq(F_hidden(P[:n]))), P[n:]]."""

    config: VFPTConfig

    def prompts(self, x: Float[Tensor, "b t d"], f: Factors, *, training: bool) -> Float[Tensor, "p d"]:
        p = F.dropout(f["prompts"], self.config.dropout, training)
        n = floor(self.config.fourier * len(p))
        if n == 0:
            return p
        in_float = p[:n] if p.dtype == torch.float64 else p[:n].float()  # torch has no transform in half precision
        return torch.cat([torch.fft.fft2(in_float).real.to(p.dtype), p[n:]])
