"""The cost model, which finds the cheapest form of the forward pass for one adapted weight.

All forms compute y = (W0 + ΔW) x. A form is modelled as a list of matrix products; the cost of a product is its FLOPs,
or the cost of moving its bytes if that takes longer (the roofline model).

    factored       W0 x + L (Rᵀx)        if ΔW = L Rᵀ is low-rank by construction
    materialised   (W0 + L Rᵀ) x         gradients through Rᵀx and Lᵀ∂y; the backward pass recomputes the sum
    weight         (W0 + ΔW) x           gradients through that of the weight, ∂y xᵀ
    beside         W0 x + ΔW x           if the sum would lose ΔW (half precision), or W0 cannot be read
    published      U ((σ0 + δ) ∘ Vᵀx)    if W0 = U diag(σ0) Vᵀ is decomposed (VectorFit): W0 is not used

If W0 is decomposed, the backward pass of the first two forms uses U and V instead of W0
(``ops/spectral.py``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch

Form = Literal["factored", "materialised", "weight", "beside", "published"]

#: The forms that a user can request; "auto" takes the cheapest. "materialised" leaves open how gradients are computed.
PLANS = ("auto", "factored", "materialised", "beside")

#: FLOPs in the time that it takes to move one byte, by device and bytes per number (an order of magnitude is enough).
_BALANCE = {("cpu", 8): 4.0, ("cpu", 4): 8.0, ("cpu", 2): 8.0, ("cuda", 8): 8.0, ("cuda", 4): 16.0, ("cuda", 2): 150.0}

Product = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """One adapted weight in one forward pass.

    Attributes:
        o, i: rows and columns of the update.
        tokens: number of rows of x, batch × length.
        rank: k of ΔW = L Rᵀ, or None if activations or dropout rule this form out.
        training: whether a backward pass follows.
        exact_sum: whether W0 + ΔW preserves the update (float32 or wider, not quantised, not under autocast).
        bases: how many of U and V are available: 2, 1 (VectorFit's lean form) or 0.
        exact: whether W0 itself must be used, so that δ = 0 gives W0 x bit for bit.
        device: type of the device.
        itemsize: bytes per number.
    """

    o: int
    i: int
    tokens: int
    rank: int | None
    training: bool
    exact_sum: bool
    bases: int = 0
    exact: bool = True
    device: str = "cpu"
    itemsize: int = 4


def products(form: Form, s: Shape) -> list[Product] | None:
    """The products (m, n, k), of sizes (m, k) × (k, n), of a form, or None if the form cannot be used.

    (m, n, 0) stands for one pass over m × n numbers.
    """
    o, i, t, k = s.o, s.i, s.tokens, s.rank
    if not s.exact_sum and form in ("materialised", "weight"):
        return None
    base = [(t, o, i)]
    if form in ("weight", "beside"):
        made = ([(o, i, k)] if s.bases != 1 else 2 * [(o, i, k)]) if k else [(o, i, 0)]
        dense = base if form == "weight" else 2 * base
        # ∂x, the gradient of ΔW, and from it the gradient of the factors: L and R, or δ between U and V
        back = dense + base + (made if s.bases or not k else 2 * made)
        return made + dense + (back if s.training else [])
    if k is None or (s.bases == 1 and form == "materialised"):
        return None
    down, thin = (k, t, i), [(k, t, i), (o, t, k)]
    if form == "published":
        return None if s.exact or s.bases != 2 else thin + (thin if s.training else [])
    if s.bases == 1:
        thin = 2 * [(k, t, k)]
    forward = base + (thin if form == "factored" else [(o, i, k)])
    if not s.training:
        return forward
    if s.bases == 2:
        return forward + thin + ([] if form == "factored" else [down])
    if s.bases == 1:
        return forward + base + thin
    return forward + base + (2 * thin + ([] if form == "factored" else [(o, i, k)]))


def flops(form: Form, s: Shape) -> float:
    """Floating-point operations of a form, including those of the frozen base."""
    made = products(form, s)
    return float("inf") if made is None else sum(2.0 * m * n * k for m, n, k in made)


def cost(form: Form, s: Shape) -> float:
    """Time of a form in FLOPs: for each product its operations, or the cost of its bytes if that is more."""
    made = products(form, s)
    if made is None:
        return float("inf")
    per_number = s.itemsize * _BALANCE.get((s.device, s.itemsize), 16.0)
    return sum(max(2.0 * m * n * k, per_number * (m * n + m * k + k * n)) for m, n, k in made)


def choose(s: Shape, plan: str = "auto") -> Form:
    """The cheapest form for ``s``, or the cheapest of those that ``plan`` (a member of :data:`PLANS`) allows.

    A form that would lose the update, or does not exist for ``s``, is not used even if requested: "materialised" then
    becomes "beside", and "factored" the cheapest form of all.
    """
    return _choose(s, plan) if torch.compiler.is_compiling() else _chosen_before(s, plan)


def _choose(s: Shape, plan: str) -> Form:
    allowed: dict[str, list[Form]] = {
        "auto": ["factored", "published", "materialised", "weight", "beside"],
        "factored": ["factored", "published"],
        "materialised": ["materialised", "weight"],
        "beside": ["beside"],
    }
    usable = [form for form in allowed[plan] if products(form, s) is not None]
    if not usable:
        usable = ["beside"] if plan == "materialised" else [f for f in allowed["auto"] if products(f, s) is not None]
    best = usable[0]
    for form in usable[1:]:  # min() with a key cannot be traced by torch up to 2.9
        if cost(form, s) < cost(best, s):
            best = form
    return best


#: A model repeats the same queries in every step; with texts of many lengths, for a few hundred shapes.
_chosen_before = functools.lru_cache(maxsize=1024)(_choose)
