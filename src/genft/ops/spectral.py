"""VectorFit's layer y = (W0 + U diag(δ) Vᵀ) x in two forms, and a gradient that both can use.

    W0 = U diag(σ0) Vᵀ                    U (o, k), V (i, k), k = min(o, i), frozen
    factored      y = W0 x + U (δ ∘ z),   z = Vᵀx
    materialised  y = (W0 + U diag(δ) Vᵀ) x

Autograd on the factored form needs a product with W0ᵀ in addition to those with U and V. But W0 is known by its
factors, so

    h = Uᵀ ∂y,   ∂x = V ((σ0 + δ) ∘ h),   ∂δ = Σ_tokens h ∘ z

needs only two products, whichever form computed y (:func:`with_factored_gradient`). W0 enters y exactly, so that δ = 0
gives the pretrained function bit for bit; only gradients have the rounding error of the decomposition.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def delta_weight(u: Float[Tensor, "o k"], delta: Float[Tensor, " k"], v: Float[Tensor, "i k"]) -> Float[Tensor, "o i"]:
    """ΔW = U diag(δ) Vᵀ (o, i); like ΔW itself, its gradient ∂δ = diag(Uᵀ ∂W V) costs one product."""
    left = u * delta
    return left @ v.T.to(left.dtype)


def project(x: Float[Tensor, "*t i"], v: Float[Tensor, "i k"]) -> Float[Tensor, "*t k"]:
    """z = Vᵀx for x (..., i), in the dtype of x."""
    return x @ _cast(v, x.dtype)


def expand(
    z: Float[Tensor, "*t k"],
    scale: Float[Tensor, " k"],
    u: Float[Tensor, "o k"],
    bias: Float[Tensor, " o"] | None = None,
) -> Float[Tensor, "*t o"]:
    """U (scale ∘ z) + b for z (..., k), in the dtype of z."""
    return F.linear(z * _cast(scale, z.dtype), _cast(u, z.dtype), None if bias is None else _cast(bias, z.dtype))


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t`` in a dtype; ``t.to`` takes its time even if there is nothing to do, and a layer asks five times."""
    return t if t.dtype == dtype else t.to(dtype)


def with_factored_gradient(
    y: Float[Tensor, "*t o"],
    x: Float[Tensor, "*t i"],
    z: Float[Tensor, "*t k"] | None,
    u: Float[Tensor, "o k"],
    scale: Float[Tensor, " k"],
    v: Float[Tensor, "i k"],
    delta: Float[Tensor, " k"],
    bias: Float[Tensor, " o"] | None = None,
) -> Float[Tensor, "*t o"]:
    """Give y, computed without a graph from x, δ and b, the gradients of W x + b for W = U diag(σ0 + δ) Vᵀ.

    Args:
        y: (..., o), W x + b in either form.
        x: (..., i).
        z: Vᵀx (..., k) if y was computed with it; otherwise None, and the backward pass computes it.
        u, v: the singular vectors of W0.
        scale: σ0 + δ (k,), as a constant.
        delta: δ (k,).
        bias: b (o,), or None.
    """
    return _FactoredGradient.apply(y, x, z, u, scale, v, delta, bias)


class _FactoredGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        z: Tensor | None,
        u: Tensor,
        scale: Tensor,
        v: Tensor,
        delta: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.has_z, ctx.trained_in = z is not None, delta.dtype
        ctx.save_for_backward(x if z is None else z, u, scale, v)
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, u, scale, v = ctx.saved_tensors
        dy = grad.reshape(-1, grad.shape[-1])
        h = dy @ _cast(u, dy.dtype)
        dx = ddelta = None
        if ctx.needs_input_grad[1]:
            dx = expand(h, scale, v).view(*grad.shape[:-1], len(v))
        if ctx.needs_input_grad[6]:
            z = (saved if ctx.has_z else project(saved, v)).reshape(-1, len(scale))
            ddelta = h.mul_(z).sum(0, dtype=ctx.trained_in)
        return None, dx, None, None, None, None, ddelta, dy.sum(0) if ctx.needs_input_grad[7] else None


# With one basis instead of two: W0 V = U diag(σ0), so ΔW = W0 V diag(δ / σ0) Vᵀ, and likewise from the left.


def inverse(sigma: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """1 / σ0, or 0 for directions in which W0 is zero to working precision.

    W0 v = σ0 u has an error of about ε · max σ0, so u has a relative error of ε · max σ0 / σ0; if that is a tenth or
    more, the direction is left out.
    """
    smallest = 10 * torch.finfo(sigma.dtype).eps * sigma.max()
    return torch.where(sigma > smallest, sigma.reciprocal(), 0.0)


def one_sided(x: Float[Tensor, "*t n"], scale: Float[Tensor, " k"], q: Float[Tensor, "n k"]) -> Float[Tensor, "*t n"]:
    """(I + Q diag(scale) Qᵀ) x for x (..., n) and Q (n, k)."""
    return x + expand(project(x, q), scale, q)


def one_sided_delta_weight(
    w0: Float[Tensor, "o i"], scale: Float[Tensor, " k"], q: Float[Tensor, "_ k"]
) -> Float[Tensor, "o i"]:
    """ΔW = W0 Q diag(scale) Qᵀ if Q is V, or Q diag(scale) Qᵀ W0 if Q is U (o < i)."""
    if w0.shape[0] < w0.shape[1]:
        return q @ ((q * scale).T @ w0)
    return (w0 @ (q * scale)) @ q.T


def root_mean_square(w: Float[Tensor, "o i"]) -> Float[Tensor, ""]:
    """The root mean square of the entries of W, in float32 or better."""
    dtype = torch.promote_types(w.dtype, torch.float32) if w.is_floating_point() else torch.float32
    return torch.linalg.vector_norm(w.detach(), dtype=dtype) / w.numel() ** 0.5
