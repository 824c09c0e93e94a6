"""A weight method beside its equation, written out in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genft.api.method import Factors, Site

SHAPES = [(6, 6), (7, 5), (5, 8)]


def weight(o: int, i: int) -> Tensor:
    return torch.randn(o, i, dtype=torch.float64, generator=torch.Generator().manual_seed(10 * o + i))


def agree(method: Any, w0: Tensor, equation: Callable[[Tensor, Factors], Tensor]) -> None:
    """ΔW, its thin factors and the gradients of all trained tensors are those of ``equation(w0, factors)``."""
    torch.manual_seed(3)
    site = Site("layer", *w0.shape)
    trained = {n: torch.randn(f.shape, dtype=torch.float64).requires_grad_() for n, f in method.factors(site).items()}
    f: Factors = {**trained, **method.derive(site, w0)}
    direction, wanted = torch.randn(w0.shape, dtype=torch.float64), equation(w0, trained)
    gradients = torch.autograd.grad((wanted * direction).sum(), list(trained.values()))
    left, right = method.low_rank(w0, f)
    for delta in (method.delta_weight(w0, f), left @ right.T):
        torch.testing.assert_close(delta, wanted)
        ours = torch.autograd.grad((delta * direction).sum(), list(trained.values()), retain_graph=True)
        for gradient, expected in zip(ours, gradients, strict=True):
            torch.testing.assert_close(gradient, expected)
