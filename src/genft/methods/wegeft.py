"""WeGeFT: the update of a weight is a linear map of the weight itself (arXiv 2312.00700).

    paper                              here
    φ (i, r), ψ (r, i), no biases      u_in (i, r), u_outᵀ if layers share them; a, bᵀ otherwise
    ΔW = W0 φ ψ                        (o, i), zero at the start, where ψ = 0

This is GenFT's row stage alone, with identity activation and ratio and scaling of 1, and is computed as such.
``tests/methods/test_wegeft.py`` compares outputs, gradients and counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from genft.api.config import setting
from genft.api.method import Factor, Init, Site
from genft.api.registry import register
from genft.methods.genft import GenFT
from genft.methods.genft_config import GenFTConfig
from genft.ops.initial import linear_


@dataclass
class WeGeFTConfig(GenFTConfig):
    """Configuration of WeGeFT: GenFT's with only the row stage; query and value are adapted by default.

    Trains 2·i·r parameters per role, shared by its weights (shared_dim = r), or per weight (specific_dim = r).
    """

    method = "wegeft"

    scope: str = setting(
        "qv",
        "Weights adapted if target_modules is not given. 'qv': query and value of every attention layer; "
        "'attention': key and output too; 'block': every linear weight of a layer, including the MLP's.",
        choices=("qv", "attention", "block"),
    )
    shared_dim: int = setting(32, "r: columns of φ that all layers share; 0 for none.", ge=0)
    specific_dim: int = setting(0, "r of the φ and ψ that each weight has separately; 0 for none.", ge=0)
    form: str = setting("paper", "WeGeFT is a case of GenFT's equations.", choices=("paper",))
    share: str = setting(
        "role",
        "'role': the queries of all layers share one φ and ψ, the values another; 'all': all weights of one width "
        "share them.",
        choices=("role", "all"),
    )
    col_stage: bool = setting(False, "Whether there is a column transformation as well; WeGeFT has none.")
    w0_ratio: float | None = setting(
        1.0, "Factor of W0; None: chosen so that the adapted weights have a root mean square of 1.", ne=0
    )
    scaling: float = setting(1.0, "Factor of ΔW.", ne=0)
    init_gain: float = setting(1.0, "Factor applied to φ at initialisation; ΔW is divided by it.", gt=0)


@register(
    "wegeft",
    config=WeGeFTConfig,
    paper="WeGeFT, arXiv 2312.00700",
    trains="a linear map of W0, shared by all layers (GenFT's row stage alone)",
    group="relative",
)
class WeGeFT(GenFT):
    """ΔW = W0 φ ψ; φ starts as nn.Linear does, ψ at zero."""

    config: WeGeFTConfig

    def factors(self, site: Site) -> dict[str, Factor]:
        factors = {}
        for name, factor in super().factors(site).items():
            if factor.shared_as is not None and self.config.share == "role":
                factor = replace(factor, shared_as=f"{factor.shared_as}_{site.role}")
            if self.config.init_weights is True and factor.init is not nn.init.zeros_:
                factor = replace(factor, init=_as_linear(self.config.init_gain))
            factors[name] = factor
        return factors


def _as_linear(gain: float) -> Init:
    """Initialise φ (i, r) as the transpose of an nn.Linear's weight (r, i)."""

    def init(phi: Tensor) -> None:
        linear_(phi.T)
        phi.mul_(gain)

    return init
