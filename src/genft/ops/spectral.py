"""VectorFit's layer y = (W0 + U diag(δ) Vᵀ) x in two forms, and the gradient that both can use.

    W0 = U diag(σ0) Vᵀ                    U (o, k), V (i, k), k = min(o, i), frozen
    factored      y = W0 x + U (δ ∘ z),   z = Vᵀx
    materialised  y = (W0 + U diag(δ) Vᵀ) x

Autograd on the factored form spends a product with W0ᵀ beside those with U and V. But W0 is known by its factors, so

    h = Uᵀ ∂y,   ∂x = V ((σ0 + δ) ∘ h),   ∂δ = Σ_tokens h ∘ z

needs two products in all, whichever form made y (:func:`with_factored_gradient`). W0 enters y itself exactly, so that
δ = 0 is the pretrained function bit for bit; only gradients carry the rounding of the decomposition.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def delta_weight(u: Float[Tensor, "o k"], delta: Float[Tensor, " k"], v: Float[Tensor, "i k"]) -> Float[Tensor, "o i"]:
    """ΔW = U diag(δ) Vᵀ (o, i); its gradient ∂δ = diag(Uᵀ ∂W V) costs one product, as it does."""
    left = u * delta
    return left @ v.T.to(left.dtype)


def project(x: Float[Tensor, "*t i"], v: Float[Tensor, "i k"]) -> Float[Tensor, "*t k"]:
    """z = Vᵀx for x (..., i), in the dtype of x."""
    return x @ v.to(x.dtype)


def expand(
    z: Float[Tensor, "*t k"],
    scale: Float[Tensor, " k"],
    u: Float[Tensor, "o k"],
    bias: Float[Tensor, " o"] | None = None,
) -> Float[Tensor, "*t o"]:
    """U (scale ∘ z) + b for z (..., k), in the dtype of z."""
    return F.linear(z * scale.to(z.dtype), u.to(z.dtype), None if bias is None else bias.to(z.dtype))


def with_factored_gradient(
    y: Float[Tensor, "*t o"],
    x: Float[Tensor, "*t i"],
    z: Float[Tensor, "*t k"] | None,
    u: Float[Tensor, "o k"],
    sigma: Float[Tensor, " k"],
    v: Float[Tensor, "i k"],
    delta: Float[Tensor, " k"],
    bias: Float[Tensor, " o"] | None = None,
) -> Float[Tensor, "*t o"]:
    """y, computed without a graph from x, δ and b, with the gradients of W x + b for W = U diag(σ0 + δ) Vᵀ.

    Args:
        y: (..., o), W x + b in either form.
        x: (..., i).
        z: Vᵀx (..., k) where y was made with it; otherwise None, and it is made in the backward pass.
        u, sigma, v: the decomposition of W0.
        delta: δ (k,).
        bias: b (o,), or None.
    """
    return _FactoredGradient.apply(y, x, z, u, sigma, v, delta, bias)


class _FactoredGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        z: Tensor | None,
        u: Tensor,
        sigma: Tensor,
        v: Tensor,
        delta: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.has_z = z is not None
        ctx.save_for_backward(x if z is None else z, u, sigma, v, delta)
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, u, sigma, v, delta = ctx.saved_tensors
        h = grad @ u.to(grad.dtype)
        dx = ddelta = None
        if ctx.needs_input_grad[1]:
            dx = expand(h, sigma + delta, v)
        if ctx.needs_input_grad[6]:
            z = saved if ctx.has_z else project(saved, v)
            ddelta = (h * z.to(h.dtype)).reshape(-1, len(delta)).sum(0, dtype=delta.dtype)
        dbias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[7] else None
        return None, dx, None, None, None, None, ddelta, dbias


# One basis instead of two: W0 V = U diag(σ0), so ΔW = W0 V diag(δ / σ0) Vᵀ, and likewise from the left.


def inverse(sigma: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """1 / σ0, and 0 for the directions that W0 does not have to working precision.

    W0 v = σ0 u is off by about ε · max σ0, so u comes out with a relative error of ε · max σ0 / σ0; where that would
    be a tenth or more, the direction is left out.
    """
    smallest = 10 * torch.finfo(sigma.dtype).eps * sigma.max()
    return torch.where(sigma > smallest, sigma.reciprocal(), 0.0)


def one_sided(x: Float[Tensor, "*t n"], scale: Float[Tensor, " k"], q: Float[Tensor, "n k"]) -> Float[Tensor, "*t n"]:
    """(I + Q diag(scale) Qᵀ) x for x (..., n) and Q (n, k)."""
    return x + expand(project(x, q), scale, q)


def one_sided_delta_weight(
    w0: Float[Tensor, "o i"], scale: Float[Tensor, " k"], q: Float[Tensor, "_ k"]
) -> Float[Tensor, "o i"]:
    """ΔW = W0 Q diag(scale) Qᵀ where Q is V, or Q diag(scale) Qᵀ W0 where it is U (o < i)."""
    if w0.shape[0] < w0.shape[1]:
        return q @ ((q * scale).T @ w0)
    return (w0 @ (q * scale)) @ q.T


def root_mean_square(w: Float[Tensor, "o i"]) -> Float[Tensor, ""]:
    """The size of the entries of W, in float32 or better."""
    dtype = torch.promote_types(w.dtype, torch.float32) if w.is_floating_point() else torch.float32
    return torch.linalg.vector_norm(w.detach(), dtype=dtype) / w.numel() ** 0.5
