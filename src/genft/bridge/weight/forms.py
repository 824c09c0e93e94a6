"""The forms of one layer's forward pass, as functions of tensors.

An update is computed in the cheapest form according to ``ops/plan.py``: the sum W0 + ΔW, thin products L (Rᵀ x) added
to W0 x, or the product ΔW x added to the base module's own output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from genft.api.method import Site
from genft.bridge.weight.row_slices import add_columns, add_rows
from genft.models.weights import FrozenWeight
from genft.ops import plan
from genft.ops.entries import autocast_is_on, no_autocast
from genft.ops.lowrank import low_rank_linear


@dataclass
class Update:
    """The update that the active adapters add to one weight, ready to multiply tokens.

    Attributes:
        form: the form of the product.
        bias: b0 + Δb (o,), or None.
        weight: W0 + ΔW, in the form "weight".
        thin: (L, R) by site, in the forms "factored" and "materialised".
        full: ΔW by site, in the form "beside".
    """

    form: plan.Form
    bias: Tensor | None
    weight: Tensor | None = None
    thin: list[tuple[Site, Tensor, Tensor]] = field(default_factory=list)
    full: list[tuple[Site, Tensor]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors except the bias."""
        tensors = [t for _, left, right in self.thin for t in (left, right)] + [d for _, d in self.full]
        return sum(t.nbytes for t in tensors) + (0 if self.weight is None else self.weight.nbytes)


def sum_is_exact(frozen: FrozenWeight, x: Tensor) -> bool:
    """Whether one matmul on W0 + ΔW may stand for the base module: not if the sum would round ΔW away (half
    precision), and not if the base computes something else (quantised, subclassed, hooked)."""
    if frozen.backend is not None or autocast_is_on(x.device):
        return False
    dtype = frozen.stored.dtype
    return dtype in (torch.float32, torch.float64) and x.dtype == dtype and frozen.plain


def shape_of(sites: list[Site], x: Tensor, exact: bool, rank: int | None) -> plan.Shape:
    """The sizes of a product of ``x`` (..., i) with the rows of ``sites``, for the cost model."""
    return plan.Shape(
        o=sum(site.out_features for site in sites),
        i=x.shape[-1],
        tokens=x.numel() // x.shape[-1],
        rank=rank,
        training=torch.is_grad_enabled(),
        exact_sum=exact,
        device=x.device.type,
        itemsize=x.element_size(),
    )


def planned(update: Update, w0: Tensor, x: Tensor, exact: bool, wanted: str) -> Update:
    """Convert ``update``, which has thin and full pieces, to the cheapest form that ``wanted`` allows."""
    sites = [site for site, _, _ in update.thin] + [site for site, _ in update.full]
    if not sites:  # a bias alone
        return update
    rank = None if update.full else max(left.shape[1] for _, left, _ in update.thin)
    update.form = plan.choose(shape_of(sites, x, exact, rank), wanted)
    if update.form == "weight":
        update.weight, update.thin, update.full = summed(w0, update), [], []
    elif update.form == "beside":
        with no_autocast(w0.device):
            update.full += [(site, left @ right.T) for site, left, right in update.thin]
        update.thin = []
    return update


def summed(w0: Tensor, update: Update) -> Tensor:
    """W0 + ΔW in the dtype of W0."""
    if update.weight is not None:
        return update.weight
    if not update.full and len(update.thin) == 1 and update.thin[0][0].out_features == len(w0):
        _, left, right = update.thin[0]
        if left.dtype == w0.dtype:
            return torch.addmm(w0, left, right.T)
    pieces = update.full + [(site, left @ right.T) for site, left, right in update.thin]
    return add_rows(w0, pieces).to(w0.dtype) if pieces else w0


def exact_product(x: Tensor, w0: Tensor, update: Update) -> Tensor:
    """(W0 + ΔW) x + b0 + Δb, if the sum is exact."""
    bias = None if update.bias is None else update.bias.to(x.dtype)
    if update.weight is not None:
        return F.linear(x, update.weight, bias)
    if not update.thin:
        return add_columns(F.linear(x, w0, bias), [(site, F.linear(x, d.to(x.dtype))) for site, d in update.full])
    rows = [(site.start, site.stop) for site, _, _ in update.thin]
    return low_rank_linear(x, w0, bias, rows, [(left, right) for _, left, right in update.thin], form=update.form)


def products(x: Tensor, update: Update, cast: Callable[[Tensor, torch.dtype], Tensor]) -> list[tuple[Site, Tensor]]:
    """ΔW x by site, to add to the base module's own output.

    Args:
        x: (..., i).
        update: an update in the form "beside" or "factored".
        cast: brings ``x`` to the dtype of the thin factors.
    """
    pieces = [(site, F.linear(x, d.to(x.dtype))) for site, d in update.full]
    for site, left, right in update.thin:
        pieces.append((site, F.linear(F.linear(cast(x, right.dtype), right.T), left)))
    return pieces
