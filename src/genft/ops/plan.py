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


def choose(s: Shape) -> Form:
    """The cheapest form that keeps the update exact."""
    allowed: list[Form] = ["thin", "weight"] if s.exact_sum else ["thin", "beside"]
    return min(allowed, key=lambda form: flops(form, s))
