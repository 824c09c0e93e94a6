"""SVFT: train a sparse matrix between the singular vectors of W0 (arXiv 2405.19597, Section 3).

    paper                              here
    W0 = U Σ Vᵀ, U and V frozen        u (o, k), v (i, k), k = min(o, i)
    ΔW = U M Vᵀ                        M (k, k), trained at the positions Ω, zero elsewhere
    M at Ω                             m (n,): entry j of m is M[rows[j], columns[j]]

Ω by ``pattern``, with d = ``off_diagonals``; all but plain have n = k (2d + 1) − d (d + 1) positions:

    plain      the diagonal, n = k
    banded     the diagonal and d further diagonals on each side
    random     drawn without replacement; depends on ``seed`` and the weight's index
    top_k      the largest |uᵢᵀ vⱼ|; U and V must have the same size, so W0 must be square

M starts at zero, so the adapted model starts as exactly the pretrained function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genft.api.config import AdapterConfig, setting
from genft.api.method import Factor, Factors, Site
from genft.api.registry import register
from genft.methods.singular import SingularMethod
from genft.ops import plan


@dataclass
class SVFTConfig(AdapterConfig):
    """Configuration of SVFT; by default every linear weight inside the transformer's blocks is adapted.

    Each weight has k = min(o, i) trained parameters if plain, otherwise k (2d + 1) − d (d + 1), with d = off_diagonals.
    """

    method = "svft"

    pattern: str = setting(
        "plain",
        "Which entries of M are trained. 'plain': the diagonal; 'banded': also off_diagonals on each side of it; "
        "'random': as many as banded, at random; 'top_k': as many, where |uᵀv| is largest (square weights only).",
        choices=("plain", "banded", "random", "top_k"),
    )
    off_diagonals: int = setting(2, "d: diagonals on each side of the main one; plain has none.", ge=0)
    seed: int = setting(0, "Seed of the random pattern.", ge=0)
    plan: str = setting(
        "auto",
        "How the layers are computed: 'factored' (through U M and V), 'materialised' (through W0 + ΔW), 'beside' "
        "(W0 x + ΔW x), or 'auto': the cheapest at each call.",
        choices=plan.PLANS,
    )
    save_bases: bool = setting(
        False, "Save U, V and Ω with the adapter, so that it does not depend on how another machine computes them."
    )

    @property
    def default_scope(self) -> str:
        return "block"


@register(
    "svft",
    config=SVFTConfig,
    paper="SVFT, arXiv 2405.19597",
    trains="a sparse matrix between the singular vectors of every weight in a block",
    group="relative",
)
class SVFT(SingularMethod[SVFTConfig]):
    """ΔW = U M Vᵀ."""

    def factors(self, site: Site) -> dict[str, Factor]:
        init = nn.init.zeros_ if self.config.init_weights else partial(nn.init.normal_, std=0.3)
        k = min(site.out_features, site.in_features)
        return {"m": Factor((self._positions(k),), init)}

    def check(self, sites: Sequence[Site]) -> list[str]:
        c = self.config
        small = [s for s in sites if c.pattern != "plain" and c.off_diagonals >= min(s.out_features, s.in_features)]
        oblong = [s for s in sites if c.pattern == "top_k" and s.out_features != s.in_features]
        return [
            f"off_diagonals: received {c.off_diagonals}; M of {s} ({s.out_features}, {s.in_features}) has "
            f"only {min(s.out_features, s.in_features) - 1} on each side"
            for s in small[:1]
        ] + [
            f"pattern: 'top_k' compares left and right singular vectors, so it needs square weights; {s} is "
            f"({s.out_features}, {s.in_features}); choose other target_modules, or 'banded' or 'random'"
            for s in oblong[:1]
        ]

    def _diagonals(self, k: int) -> int:
        """d in M (k, k)."""
        return 0 if self.config.pattern == "plain" else min(self.config.off_diagonals, k - 1)

    def _positions(self, k: int) -> int:
        """n, the number of trained entries of M (k, k)."""
        d = self._diagonals(k)
        return k * (2 * d + 1) - d * (d + 1)

    def derive(self, site: Site, w0: Tensor) -> dict[str, Tensor]:
        u, _, v = self.decomposition(site, w0)
        kept = {"u": u, "v": v}
        if self.config.pattern != "plain":
            kept["rows"], kept["columns"] = self._omega(site, u, v)
        return {name: value.to(w0.device) for name, value in kept.items()}

    def _omega(
        self, site: Site, u: Float[Tensor, "o k"], v: Float[Tensor, "i k"]
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """The rows and the columns of Ω."""
        k, n = u.shape[1], self._positions(u.shape[1])
        if u.is_meta:
            nowhere = torch.empty(n, dtype=torch.long, device="meta")
            return nowhere, nowhere
        if self.config.pattern == "banded":
            i = torch.arange(k)
            flat = torch.nonzero(((i[:, None] - i).abs() <= self._diagonals(k)).flatten()).flatten()
        elif self.config.pattern == "random":
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + site.index)
            flat = torch.randperm(k * k, generator=generator)[:n]
        else:
            flat = (u.double().T @ v.double()).abs().flatten().topk(n).indices
        flat = flat.sort().values
        return flat // k, flat % k

    def sketch(self, w0: Callable[[], Tensor], f: Factors, left: Tensor, right: Tensor) -> Tensor | None:
        double = {name: t.cpu().double() if t.is_floating_point() else t.cpu() for name, t in f.items()}
        return left.T.double() @ self._u_m(double) @ (double["v"].T @ right.double())

    def _u_m(self, f: Factors) -> Float[Tensor, "o k"]:
        """U M."""
        u, m = f["u"], f["m"]
        if "rows" not in f:
            return u * m
        k = u.shape[1]
        return u.to(m.dtype) @ m.new_zeros(k, k).index_put((f["rows"], f["columns"]), m)

    def low_rank(self, w0: Float[Tensor, "o i"], f: Factors) -> tuple[Float[Tensor, "o k"], Float[Tensor, "i k"]]:
        left = self._u_m(f)
        return left, f["v"].to(left.dtype)

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"]:
        left, right = self.low_rank(w0, f)
        return left @ right.T
