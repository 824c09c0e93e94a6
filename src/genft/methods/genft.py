"""GenFT: the update of a weight is generated from the weight itself (arXiv 2506.11042).

    paper                              here
    W0, frozen (o, i)                  w0
    U_shared of U_1, U_2    (Eq. 4)    u_in, u_out   (i, a); a single tensor u if ``factors="tied"``
    V_shared of V_1, V_2    (Eq. 6)    v_in, v_out   (o, a); likewise v
    A_specific, B_specific             a, b          (d, b); one pair per stage if o ≠ i
    F_row = mask(σ1(ratio · W0 U))     row stage     (o, i)   Eq. 5, in the order of Algorithm 1
    F_column = mask(σ2(F_rowᵀ V))      column stage  (i, o)   Eq. 7
    ΔW = scaling · F_columnᵀ                         (o, i)

With P = [shared_in | A] and Q = [shared_out | B], U = Q1 P1ᵀ and V = Q2 P2ᵀ are never formed (``ops/generator.py``).
There are three forms:

    paper      the equations above: σ1 = act_row and σ2 = act_col apply to the generated matrices
    official   the authors' code: in both stages, act_inner applies to W0 P (o, r), act_outer to the generated matrix
    bounded    ΔW = λ · rms(W0) · √(i / r) · σ2(Q̂2 B̂ᵀ), λ = relative_scale, B̂ = F_rowᵀ P2 with its columns divided by
               their norms: independent of the size of W0, of the width and of all factors except Q2, which starts at
               zero; Q̂2 = Q2 / √(1 + (λ rms(Q2) / relative_limit)²). The default, and not from the paper
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genft.api.method import Factor, Factors, Site, WeightMethod
from genft.api.registry import register
from genft.errors import ConfigError
from genft.methods.genft_config import GenFTConfig
from genft.methods.genft_factors import Stage, factors, stages
from genft.ops import generator
from genft.ops.initial import leading_directions
from genft.ops.spectral import root_mean_square
from genft.ops.tracing import is_transformed

#: Activations that commute with positive scaling.
HOMOGENEOUS = ("identity", "relu", "leaky_relu")


@register(
    "genft",
    config=GenFTConfig,
    paper="GenFT, arXiv 2506.11042",
    trains="factors that generate ΔW from W0, partly shared by all layers, partly specific to each weight",
    group="paper",
)
class GenFT(WeightMethod[GenFTConfig]):
    """ΔW = scaling · σ2(σ1(ratio · W0 P1 Q1ᵀ)ᵀ P2 Q2ᵀ)ᵀ, and its two relatives."""

    shares_factors = True
    derives_every_step = True
    advice_for_silent_factors = (
        "set init_a or init_b to another initialisation than 'zeros', use init_weights=True, or set specific_dim=0"
    )

    def __init__(self, config: GenFTConfig) -> None:
        super().__init__(config)
        #: 1 / root mean square of the adapted weights' entries, or None if the configuration sets the ratio.
        self._inverse_rms: float | None = None
        #: (letter, d) → leading singular vectors (d, a) of all adapted weights together, for init_shared="svd".
        self._directions: dict[tuple[str, int], Tensor] = {}

    def factors(self, site: Site) -> dict[str, Factor]:
        return factors(self.config, site, self._directions)

    # ---------------------------------------------------------------- values derived from the base

    def prepare(self, weights: Mapping[Site, Callable[[], Tensor]]) -> None:
        if self.config.init_shared == "svd":
            stacked: dict[tuple[str, int], list[Callable[[], Tensor]]] = defaultdict(list)
            for site, read in weights.items():
                stacked["u", site.in_features].append(read)
                stacked["v", site.out_features].append(read)
            for (letter, d), reads in stacked.items():
                rows = (read() if letter == "u" else read().T for read in reads)
                self._directions[letter, d] = leading_directions(rows, self.config.shared_dim)
        if self.config.w0_ratio is not None or self.config.form == "official":
            return
        sizes = {site: site.out_features * site.in_features for site in weights}
        square = sum(sizes[site] * float(root_mean_square(read())) ** 2 for site, read in weights.items())
        if not 0 < square < float("inf"):
            raise ConfigError(
                f"w0_ratio: cannot be derived from the adapted weights, whose sum of squares is {square:g}; "
                "give a number, such as w0_ratio=1.0"
            )
        # three digits, so that other devices almost always round to the same number
        self._inverse_rms = float(f"{(sum(sizes.values()) / square) ** 0.5:.3g}")

    def derived_settings(self) -> dict[str, Any]:
        return {} if self._inverse_rms is None else {"w0_ratio": self._inverse_rms}

    def derive(self, site: Site, w0: Float[Tensor, "o i"]) -> dict[str, Tensor]:
        return {"rms": root_mean_square(w0)} if self.config.form == "bounded" else {}

    def check(self, sites: Sequence[Site]) -> list[str]:
        rank = self.config.shared_dim + self.config.specific_dim
        if narrow := [s for s in sites if rank > min(s.out_features, s.in_features)]:
            s = narrow[0]
            warnings.warn(
                f"{self.config.method}: shared_dim + specific_dim = {rank} is more than the rank that {s} "
                f"({s.out_features}, {s.in_features}) can have; it works, but some parameters are redundant",
                stacklevel=2,
            )
        if self.config.transpose_delta:
            return []
        return [
            f"transpose_delta: False needs square weights; {site} is ({site.out_features}, {site.in_features}); "
            "True suits every shape"
            for site in sites
            if site.out_features != site.in_features
        ][:1]

    # ---------------------------------------------------------------- the update

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"]:
        c = self.config
        if not c.is_generated:
            left, right = self._specific_product(f)
            return generator.masked_product(left, right, "identity", c.scaling, c.dropout, dropout_seed)
        delta = generator.generate(w0, *self._read(w0, f), self._form(w0, f), seed=dropout_seed)
        return delta if c.transpose_delta else delta.T

    def low_rank(
        self, w0: Float[Tensor, "o i"], f: Factors
    ) -> tuple[Float[Tensor, "o k"], Float[Tensor, "i k"]] | None:
        """Without an activation on the last generated matrix, ΔW has rank at most a + b (one more with biases)."""
        c = self.config
        if not c.is_generated:
            left, right = self._specific_product(f)
            return c.scaling * left, right
        if c.last_activation[1] != "identity" or is_transformed():
            return None
        left, right = generator.low_rank(w0, *self._read(w0, f), self._form(w0, f))
        return (left, right) if c.transpose_delta else (right, left)

    def low_rank_together(
        self, w0: Sequence[Float[Tensor, "o i"]], f: Sequence[Factors]
    ) -> tuple[Tensor, Tensor] | None:
        c = self.config
        between = c.act_outer if c.form == "official" else c.act_row
        if not c.is_generated or c.last_activation[1] != "identity" or between != "identity":
            return None
        stacked: dict[str, Tensor] = {}
        for name, first in f[0].items():
            values = [factors[name] for factors in f]
            stacked[name] = first if all(value is first for value in values) else torch.stack(values)
        if "rms" in stacked:
            stacked["rms"] = stacked["rms"].view(-1, 1, 1)
        row, col = self._read(w0[0], stacked)
        if row is not None:
            row = row._replace(p=row.p.expand(len(w0), *row.p.shape[-2:]))
        elif col is not None:
            col = col._replace(p=col.p.expand(len(w0), *col.p.shape[-2:]))
        left, right = generator.low_rank(w0, row, col, self._form(w0[0], stacked))
        return (left, right) if c.transpose_delta else (right, left)

    @property
    def entry_dropout(self) -> float:
        return self.config.dropout

    def _specific_product(self, f: Factors) -> tuple[Tensor, Tensor]:
        """The factors of ΔW = scaling · B Aᵀ, which the authors' text code uses without shared columns."""
        return f["b"], f["a"] / self.config.start_norm

    def _read(self, w0: Tensor, f: Factors) -> tuple[generator.Stage | None, generator.Stage | None]:
        """P and Q of the row stage and of the column stage."""
        read = {s.letter: s.read(f, *self._factor_scales(s)) for s in stages(self.config, w0.shape[0], w0.shape[1])}
        if self.config.form == "bounded" and self.config.relative_limit is not None:
            last = "v" if self.config.col_stage else "u"
            read[last] = self._limited(read[last], self.config.relative_limit)
        return read.get("u"), read.get("v")

    def _limited(self, stage: generator.Stage, limit: float) -> generator.Stage:
        """Q2 / √(1 + (λ rms(Q2) / limit)²): since the columns of B̂ have norm 1, λ rms(Q2) is about ‖ΔW‖ / ‖W0‖."""
        square = stage.q.square().mean(dim=(-2, -1), keepdim=True)
        return stage._replace(q=stage.q * torch.rsqrt(1 + (self.config.relative_scale / limit) ** 2 * square))

    def _form(self, w0: Tensor, f: Factors) -> generator.Form:
        c, g = self.config, self.config.start_norm
        # on the meta device the base has no values yet, and the ratio does not matter
        ratio = self._inverse_rms or c.w0_ratio or 1.0
        if c.form == "official":
            ratio = ratio if c.ratio_power == 1 and c.specific_dim else 1.0
            return generator.Form(c.act_outer, c.act_outer, c.act_inner, ratio, c.scaling, dropout=c.dropout)
        ratio /= g ** (c.row_stage * (1 + c.col_stage))  # P1's gain, and Q1's unless Q1 starts at zero
        if c.form == "paper":
            scaling = c.scaling / (g if c.col_stage and c.act_col in HOMOGENEOUS else 1)  # P2's gain
            return generator.Form(c.act_row, c.act_col, ratio=ratio, scaling=scaling, dropout=c.dropout)
        height = w0.shape[1] if c.col_stage else w0.shape[0]  # of the normalised columns
        relative = c.relative_scale * (height / (c.shared_dim + c.specific_dim)) ** 0.5
        return generator.Form(
            c.act_row, c.act_col, ratio=ratio, scaling=relative * f["rms"], normalise=True, dropout=c.dropout
        )

    def _factor_scales(self, stage: Stage) -> tuple[float, float]:
        """The scales of P and Q that are not already part of ratio and scaling (:meth:`_form`)."""
        c, g = self.config, self.config.start_norm
        if c.form == "official":
            ratio = (c.w0_ratio or 1.0) if c.ratio_power == 4 else 1.0
            return ratio / g, ratio / (1 if stage.is_last else g)
        within = c.form == "paper" and stage.letter == "v" and c.act_col not in HOMOGENEOUS
        return (1 / g if within else 1.0), 1.0
