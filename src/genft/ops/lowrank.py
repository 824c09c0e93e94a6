"""The layer y = (W0 + L Rᵀ) x + b for low-rank updates, in two forms, with a gradient that never forms ∂y xᵀ.

    z = Rᵀxᵀ  (k, T)      g = Lᵀ∂yᵀ  (k, T)
    factored              y = W0 x + b,  y += L z      ∂x = ∂y W0,  ∂x += gᵀRᵀ
    materialised          y = (W0 + L Rᵀ) x + b        ∂x = ∂y (W0 + L Rᵀ)
    both                  ∂L = ∂yᵀ zᵀ                  ∂R = xᵀ gᵀ

An update may cover only some rows of W0, and there may be several updates. Besides x, nothing as large as a weight or
an activation is saved: the sum of the materialised form is recomputed in the backward pass, and thin products are added
in place. They are computed with the rank first, (k, T) instead of (T, k), which is up to twice as fast in BLAS if k is
not a multiple of the vector width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from genft.ops.tracing import is_traced

Rows = tuple[int, int]


def low_rank_linear(
    x: Float[Tensor, "*t i"],
    w0: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None,
    rows: list[Rows],
    pairs: list[tuple[Tensor, Tensor]],
    *,
    form: str,
) -> Float[Tensor, "*t o"]:
    """(W0 + ΔW) x + b, once differentiable in x, b and the pairs.

    Args:
        x: (..., i).
        w0: frozen (o, i), in the dtype of x.
        bias: (o,), or None.
        rows: the first row and the end of each update's rows of W0.
        pairs: L (stop - start, k) and R (i, k) of each update.
        form: "factored" or "materialised".
    """
    if is_traced():  # what to keep and what to make again is the compiler's choice then
        return _traced(x, w0, bias, rows, pairs, form)
    factors = [t.to(x.dtype) for pair in pairs for t in pair]
    return _LowRankLinear.apply(x, w0, bias, rows, form, *factors)


def _traced(
    x: Tensor, w0: Tensor, bias: Tensor | None, rows: list[Rows], pairs: list[tuple[Tensor, Tensor]], form: str
) -> Tensor:
    o, y = len(w0), F.linear(x, w0, bias) if form == "factored" else None
    for (start, stop), (left, right) in zip(rows, pairs, strict=True):
        left, right = left.to(x.dtype), right.to(x.dtype)
        if y is None:
            w0 = w0 + F.pad(left @ right.T, (0, 0, start, o - stop))
        else:
            y = y + F.pad(F.linear(x @ right, left), (start, o - stop))
    return F.linear(x, w0, bias) if y is None else y


def _updated(w0: Tensor, rows: list[Rows], factors: tuple[Tensor, ...]) -> Tensor:
    if len(rows) == 1 and rows[0] == (0, len(w0)):
        return torch.addmm(w0, factors[0], factors[1].T)
    w = w0.clone(memory_format=torch.contiguous_format)
    for (start, stop), left, right in zip(rows, factors[::2], factors[1::2], strict=True):
        w[start:stop].addmm_(left, right.T)
    return w


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w0: Tensor, bias: Tensor | None, rows: list[Rows], form: str, *factors: Tensor
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        kept: list[Tensor] = []
        if form == "factored":
            y = F.linear(flat, w0, bias)
            for (start, stop), left, right in zip(rows, factors[::2], factors[1::2], strict=True):
                kept.append(right.T @ flat.T)
                y[:, start:stop].addmm_(kept[-1].T, left.T)
        else:
            y = F.linear(flat, _updated(w0, rows, factors), bias)
        ctx.rows, ctx.form = rows, form
        ctx.save_for_backward(x, w0, *factors, *kept)
        return y.view(*x.shape[:-1], len(w0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, w0, *saved = ctx.saved_tensors
        factors, kept = tuple(saved[: 2 * len(ctx.rows)]), saved[2 * len(ctx.rows) :]
        dy, flat = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        needs_x, _, needs_bias, _, _, *needs = ctx.needs_input_grad
        dx = None
        if needs_x:
            dx = dy @ (w0 if ctx.form == "factored" else _updated(w0, ctx.rows, factors))
        gradients: list[Tensor | None] = []
        for n, (start, stop) in enumerate(ctx.rows):
            left, right = factors[2 * n : 2 * n + 2]
            part, dl, dr = dy[:, start:stop], None, None
            if needs[2 * n]:
                z = kept[n] if kept else right.T @ flat.T
                dl = (z @ part).T
            if needs[2 * n + 1] or (needs_x and ctx.form == "factored"):
                g = left.T @ part.T
                if dx is not None and ctx.form == "factored":
                    dx.addmm_(g.T, right.T)
                dr = (g @ flat).T if needs[2 * n + 1] else None
            gradients += [dl, dr]
        dx = None if dx is None else dx.view_as(x)
        return dx, None, dy.sum(0) if needs_bias else None, None, None, *gradients
