"""The cost model: which form of the forward pass is cheapest for one adapted weight.

Three forms compute the same function:

* ``"weight"``: form W0 + ΔW once, one matmul on it;
* ``"thin"``: base(x) + (x R) Lᵀ, where ΔW = L Rᵀ has low rank by construction;
* ``"beside"``: base(x) + x ΔWᵀ, where the base weight cannot be read cheaply (quantised) or is stored so coarsely
  that W0 + ΔW would round the update away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["weight", "thin", "beside"]
FORMS: tuple[Form, ...] = ("weight", "thin", "beside")


@dataclass(frozen=True)
class Shape:
    """One adapted weight in one forward pass.

    Attributes:
        o, i: rows and columns of the update.
        tokens: rows of x, that is batch × length.
        rank: k of ΔW = L Rᵀ, or None where the update has no such form now.
        training: whether a backward pass follows.
        exact_sum: whether W0 + ΔW keeps the update (float32 or wider, not quantised, not under autocast).
    """

    o: int
    i: int
    tokens: int
    rank: int | None
    training: bool
    exact_sum: bool


def flops(form: Form, s: Shape) -> float:
    """Floating-point operations beyond the frozen base's own forward pass and input gradient."""
    o, i, t = s.o, s.i, s.tokens
    forming = 2 * o * i * s.rank if s.rank else 0
    if form == "thin":
        if s.rank is None:
            return float("inf")
        return 2 * t * s.rank * (o + i) * (3 if s.training else 1)
    weight_gradient = 2 * t * o * i if s.training else 0
    product = 2 * t * o * i * (2 if s.training else 1) if form == "beside" else 0
    return forming * (3 if s.training else 1) + weight_gradient + product


def choose(s: Shape, wanted: Form | None = None) -> Form:
    """The cheapest form that keeps the update exact; or the one that is ``wanted``, "weight" becoming "beside" where
    the sum would lose the update."""
    dense: Form = "weight" if s.exact_sum else "beside"
    if wanted is not None:
        return "thin" if wanted == "thin" else dense
    allowed: list[Form] = ["thin", dense]
    return min(allowed, key=lambda form: flops(form, s))


SpectralForm = Literal["factored", "materialised", "weight"]


def spectral_flops(form: SpectralForm, s: Shape, *, exact: bool = True, one_sided: bool = False) -> float:
    """Floating-point operations of a layer with W = W0 + U diag(δ) Vᵀ (``ops/spectral.py``), the base's included.

    Args:
        form: "factored" and "materialised" use the factored gradient; "weight" is the general form above, whose
            gradient goes through that of the weight.
        s: the layer; its ``rank`` is min(o, i).
        exact: whether the factored form adds to W0 x, rather than computing W x from the factors alone.
        one_sided: whether only the smaller basis is kept.
    """
    o, i, t, k = s.o, s.i, s.tokens, min(s.o, s.i)
    base, thin, forming = 2 * t * o * i, 2 * t * k * (o + i), 2 * o * i * k
    if one_sided:
        thin, forming = 4 * t * k * k, 2 * forming
    forward = {"factored": thin + (base if exact else 0), "materialised": forming + base, "weight": forming + base}
    backward = {
        "factored": base + thin if one_sided else thin,
        "materialised": thin + 2 * t * i * k,
        "weight": 2 * base + forming,
    }
    return forward[form] + (backward[form] if s.training else 0)


def choose_spectral(
    s: Shape, wanted: Form | None = None, *, exact: bool = True, one_sided: bool = False
) -> SpectralForm:
    """The cheapest form of a layer that VectorFit trains, or the cheapest of those that ``wanted`` allows."""
    materialised: list[SpectralForm] = ["weight"] if one_sided else ["materialised", "weight"]
    if wanted == "thin" or (wanted is None and not s.exact_sum):
        return "factored"
    if not s.exact_sum:
        return "weight"
    allowed = materialised if wanted else [*materialised, "factored"]
    return min(allowed, key=lambda form: spectral_flops(form, s, exact=exact, one_sided=one_sided))
