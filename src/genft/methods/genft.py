"""GenFT: the update of a weight is generated from the weight itself (arXiv 2506.11042).

    paper                              here
    W0, frozen (o, i)                  w0
    U_shared of U_1, U_2    (Eq. 4)    u_in, u_out   (i, a); one tensor u where ``factors="tied"``
    V_shared of V_1, V_2    (Eq. 6)    v_in, v_out   (o, a); one tensor v
    A_specific, B_specific             a, b          (d, b); one pair per stage where o ≠ i
    F_row = mask(σ1(ratio · W0 U))     row stage     (o, i)   Eq. 5, in the order of Algorithm 1
    F_column = mask(σ2(F_rowᵀ V))      column stage  (i, o)   Eq. 7
    ΔW = scaling · F_columnᵀ                         (o, i)

With P = [shared_in | A] and Q = [shared_out | B], U = Q1 P1ᵀ and V = Q2 P2ᵀ are never formed (``ops/generator.py``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genft.api.config import AdapterConfig, setting
from genft.api.method import Factor, Factors, Init, Site, WeightMethod
from genft.api.registry import register
from genft.errors import ConfigError
from genft.ops import generator
from genft.ops.initial import orthonormal_
from genft.ops.plan import PLANS

ACTIVATIONS = ("identity", "relu", "leaky_relu", "gelu", "tanh")

#: Initialisations of the paper's specific factors (Tables 8-10).
PAPER_INITS: dict[str, Init] = {
    "kaiming_uniform": lambda t: nn.init.kaiming_uniform_(t, a=5**0.5),
    "xavier_uniform": nn.init.xavier_uniform_,
    "normal": lambda t: nn.init.normal_(t, std=0.01),
    "zeros": nn.init.zeros_,
}


@dataclass
class GenFTConfig(AdapterConfig):
    """Configuration of GenFT; every field can be left at its default, which docs/defaults.md measures.

    The default starts exactly at the pretrained function and trains 4·d·a + 8·L·d·b numbers for q, k, v and output of
    the attention of L layers of width d: 96·d + 16·L·d, where LoRA of rank 8 on q and v trains 32·L·d.
    """

    method = "genft"

    scope: str = setting(
        "attention",
        "Weights adapted where target_modules is not given. 'qv': query and value of every attention layer; "
        "'attention': key and output too; 'block': all in every layer, the MLP's too.",
        choices=("qv", "attention", "block"),
    )
    shared_dim: int = setting(24, "a: columns of the factors that all adapted weights share; 0 for none.", ge=0)
    specific_dim: int = setting(2, "b: columns of the factors of each weight (or layer) alone; 0 for none.", ge=0)
    act_row: str = setting("identity", "Activation σ1 of the row stage.", choices=ACTIVATIONS)
    act_col: str = setting("identity", "Activation σ2 of the column stage.", choices=ACTIVATIONS)
    w0_ratio: float | None = setting(
        None,
        "How much of W0 enters the generator (ratio in Eq. 5). By default as much as gives the entries of the adapted "
        "weights a root mean square of 1, so that training is as fast on every base.",
        ne=0,
    )
    scaling: float = setting(0.05, "Factor of the generated update (Eq. 7).", ne=0)
    dropout: float = setting(
        0.0, "Probability with which an entry of a generated matrix is dropped in training.", ge=0, lt=1
    )
    factors: str = setting(
        "independent",
        "'independent': input and output factors differ, one generator for all weights (the authors' code); "
        "'tied': they are one tensor, one generator per last part of the weights' names, such as query and value (the "
        "paper's Eq. 4 and 6).",
        choices=("independent", "tied"),
    )
    specific_scope: str = setting(
        "module",
        "'module': a pair A, B for every adapted weight; 'layer': one pair per parent module and width, used by its q "
        "and v alike.",
        choices=("module", "layer"),
    )
    row_stage: bool = setting(True, "Whether the row transformation (Eq. 5) is there.")
    col_stage: bool = setting(True, "Whether the column transformation (Eq. 7) is there.")
    init_weights: bool | str = setting(  # type: ignore[assignment]
        True,
        "True: start exactly at the pretrained function; 'paper': the paper's initialisations (init_a, init_b), "
        "which do not; False: every factor non-zero (for tests).",
        choices=(True, False, "paper"),  # type: ignore[arg-type]
    )
    init_gain: float = setting(
        4.0,
        "Norm of the columns of every factor that does not start at zero, unless init_weights='paper'; ΔW is divided "
        "by what that adds. The larger, the less these factors turn in a step of Adam, and the calmer training is.",
        gt=0,
    )
    init_a: str = setting(
        "kaiming_uniform", "Initialisation of A where init_weights='paper'.", choices=tuple(PAPER_INITS)
    )
    init_b: str = setting("zeros", "Initialisation of B where init_weights='paper'.", choices=tuple(PAPER_INITS))
    transpose_delta: bool = setting(
        True,
        "False adds the generated (i, o) matrix untransposed, as the authors' text code does; square W0 only.",
    )

    plan: str = setting(
        "auto",
        "How the layers are computed: 'factored' (thin products beside W0; identity activations without dropout), "
        "'materialised' (through W0 + ΔW), 'beside' (W0 x + ΔW x), or 'auto': what costs least at each call.",
        choices=PLANS,
    )

    @property
    def default_scope(self) -> str:
        return self.scope

    def problems(self) -> list[str]:
        found = super().problems()
        if not found and self.shared_dim + self.specific_dim == 0:
            found.append("shared_dim, specific_dim: both are 0, so nothing would be trained; make one positive")
        if not (self.row_stage or self.col_stage):
            found.append("row_stage, col_stage: both are off, so there is no update; switch one on")
        if not self.transpose_delta and not self.col_stage:
            found.append("transpose_delta: False needs the column stage; without it nothing is transposed")
        if self.init_weights is True:
            found += self._identity_start_problems()
        return found

    def _identity_start_problems(self) -> list[str]:
        found = []
        last = "act_col" if self.col_stage else "act_row"
        if getattr(self, last) == "relu":
            found.append(
                f"{last}: 'relu' has no gradient at 0, so training could never leave the identity start; "
                "use init_weights='paper' or another activation, such as 'leaky_relu'"
            )
        if self.factors == "tied" and self.shared_dim > 0:
            found.append(
                "factors: 'tied' cannot start at the pretrained function (a zero output factor is a zero input "
                "factor); use init_weights='paper' or factors='independent'"
            )
        return found


@register(
    "genft",
    config=GenFTConfig,
    paper="GenFT, arXiv 2506.11042",
    trains="factors that generate ΔW from W0: part shared by all layers, part of each weight",
)
class GenFT(WeightMethod[GenFTConfig]):
    """ΔW = scaling · σ2(σ1(ratio · W0 P1 Q1ᵀ)ᵀ P2 Q2ᵀ)ᵀ."""

    shares_factors = True
    advice_for_silent_factors = (
        "set init_a or init_b to another initialisation than 'zeros', use init_weights=True, or set specific_dim=0"
    )

    def __init__(self, config: GenFTConfig) -> None:
        super().__init__(config)
        #: 1 / root mean square of the adapted weights' entries; None where the configuration says the ratio.
        self._inverse_rms: float | None = None

    def factors(self, site: Site) -> dict[str, Factor]:
        """Shared factors are keyed by dimension (and by role where tied), specific ones by weight or layer."""
        c = self.config
        found: dict[str, Factor] = {}
        for stage, d in self._stages(site):
            last = stage == ("v" if c.col_stage else "u")
            if c.shared_dim and c.factors == "tied":
                shape, init = (d, c.shared_dim), self._init("shared")
                found[stage] = Factor(shape, init, shared_as=f"{stage}_{d}_{site.role}")
            elif c.shared_dim:
                for end in ("in", "out"):
                    init = self._init("shared", zero=last and end == "out")
                    found[f"{stage}_{end}"] = Factor((d, c.shared_dim), init, shared_as=f"{stage}_{end}_{d}")
            if c.specific_dim:
                for name in ("a", "b"):
                    # a B used by both stages is an output factor of the last one too, so it starts at zero
                    init = self._init(name, zero=name == "b" and (last or self._shares_b(site)))
                    symbol = name if self._reuses_pair(site) else f"{name}_{'row' if stage == 'u' else 'col'}"
                    owner = self._pair_owner(name if not self._stages_have_own_pairs else symbol, d, site)
                    found.setdefault(symbol, Factor((d, c.specific_dim), init, shared_as=owner))
        return found

    def prepare(self, weights: Mapping[Site, Callable[[], Tensor]]) -> None:
        if self.config.w0_ratio is not None:
            return
        square = sum(float(torch.linalg.vector_norm(read(), dtype=torch.float32)) ** 2 for read in weights.values())
        if not 0 < square < math.inf:
            raise ConfigError(
                f"w0_ratio: cannot follow the adapted weights, whose sum of squares is {square:g}; "
                "give a number, such as w0_ratio=1.0"
            )
        entries = sum(site.out_features * site.in_features for site in weights)
        # three digits, so that another device hardly ever rounds to another number
        self._inverse_rms = float(f"{(entries / square) ** 0.5:.3g}")

    def derived_settings(self) -> dict[str, Any]:
        return {} if self._inverse_rms is None else {"w0_ratio": self._inverse_rms}

    def delta_weight(self, w0: Tensor, f: Factors, *, dropout_seed: int | Tensor | None = None) -> Tensor:
        c = self.config
        delta = generator.generate(
            w0,
            self._stage("u", f) if c.row_stage else None,
            self._stage("v", f) if c.col_stage else None,
            act_row=c.act_row,
            act_col=c.act_col,
            ratio=self._ratio,
            scaling=self._scaling,
            dropout=c.dropout,
            seed=dropout_seed,
        )
        return delta if c.transpose_delta else delta.T

    def low_rank(self, w0: Tensor, f: Factors) -> tuple[Tensor, Tensor] | None:
        """Identity activations: ΔW = scaling · ratio · Q2 (P2ᵀ W0 P1) Q1ᵀ has rank a + b at most."""
        c = self.config
        linear = (c.act_row == "identity" or not c.row_stage) and (c.act_col == "identity" or not c.col_stage)
        if not linear:
            return None
        left, right = generator.low_rank(
            w0,
            self._stage("u", f) if c.row_stage else None,
            self._stage("v", f) if c.col_stage else None,
            ratio=self._ratio,
            scaling=self._scaling,
        )
        return (left, right) if c.transpose_delta else (right, left)

    @property
    def _ratio(self) -> float:
        """w0_ratio, less the gain of P1, and of Q1 where that is not the last factor, which starts at zero."""
        c = self.config
        # on the meta device the base's numbers are not there yet, and the ratio does not matter
        ratio = self._inverse_rms or c.w0_ratio or 1.0
        return ratio / self._gain ** (c.row_stage * (1 + c.col_stage))

    @property
    def _scaling(self) -> float:
        """scaling, less the gain of P2 where act_col lets it through."""
        return self.config.scaling / (self._gain if self._gain_of_p2_is_outside else 1)

    @property
    def _gain_of_p2_is_outside(self) -> bool:
        return self.config.col_stage and self.config.act_col not in ("gelu", "tanh")

    @property
    def _gain(self) -> float:
        return 1.0 if self.config.init_weights == "paper" else self.config.init_gain

    @property
    def entry_dropout(self) -> float:
        return self.config.dropout

    def check(self, sites: Sequence[Site]) -> list[str]:
        rank = self.config.shared_dim + self.config.specific_dim
        if narrow := [s for s in sites if rank > min(s.out_features, s.in_features)]:
            s = narrow[0]
            warnings.warn(
                f"genft: shared_dim + specific_dim = {rank} is more than the rank that {s} "
                f"({s.out_features}, {s.in_features}) can have; it works, with parameters that add nothing",
                stacklevel=2,
            )
        if self.config.transpose_delta:
            return []
        return [
            f"transpose_delta: False needs square weights; {site} is ({site.out_features}, {site.in_features})"
            for site in sites
            if site.out_features != site.in_features
        ][:1]

    def _stages(self, site: Site) -> list[tuple[str, int]]:
        """The stages in use, by the letter of their shared factor, and the width that they mix."""
        row = [("u", site.in_features)] if self.config.row_stage else []
        return row + ([("v", site.out_features)] if self.config.col_stage else [])

    def _stage(self, letter: str, f: Factors) -> tuple[Tensor, Tensor]:
        """(P, Q) of one stage: the shared columns, then the specific ones (Eq. 4 and 6)."""
        stage = "row" if letter == "u" else "col"
        shared_in, shared_out = f.get(f"{letter}_in", f.get(letter)), f.get(f"{letter}_out", f.get(letter))
        a, b = f.get("a", f.get(f"a_{stage}")), f.get("b", f.get(f"b_{stage}"))
        ps = [t for t in (shared_in, a) if t is not None]
        qs = [t for t in (shared_out, b) if t is not None]
        p, q = (ps[0], qs[0]) if len(ps) == 1 else (torch.cat(ps, dim=1), torch.cat(qs, dim=1))
        return (p, q) if letter == "u" or self._gain_of_p2_is_outside else (p / self._gain, q)

    @property
    def _stages_have_own_pairs(self) -> bool:
        """At the identity start without shared factors, one pair for both stages would stay silent: B = 0 in the
        column stage would be B = 0 in the row stage."""
        return self.config.init_weights is True and self.config.shared_dim == 0

    def _reuses_pair(self, site: Site) -> bool:
        """Whether both stages use one pair, A' = A and B' = B: the paper's case, possible where W0 is square."""
        both = self.config.row_stage and self.config.col_stage
        return both and site.in_features == site.out_features and not self._stages_have_own_pairs

    def _shares_b(self, site: Site) -> bool:
        """Whether a row stage's B may be the last stage's B as well, here or in another weight of the layer."""
        by_layer = self.config.specific_scope == "layer" and not self._stages_have_own_pairs
        return self._reuses_pair(site) or by_layer

    def _pair_owner(self, name: str, d: int, site: Site) -> str | None:
        """Scope "layer": weights with the same parent module share the pair of the same width."""
        if self.config.specific_scope == "module":
            return None
        return f"{name}_{d}@{site.layer.replace('.', '/')}"

    def _init(self, which: str, *, zero: bool = False) -> Init:
        c = self.config
        if c.init_weights == "paper":
            if which == "shared":
                return lambda t: nn.init.trunc_normal_(t, std=0.02)
            return PAPER_INITS[c.init_a if which == "a" else c.init_b]
        if zero and c.init_weights is True:
            return nn.init.zeros_
        return lambda t: orthonormal_(t, gain=self._gain)
