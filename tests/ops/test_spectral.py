"""VectorFit's layer: its forms agree, start exactly, have the right gradients, and cost what the plan says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genft.methods.vectorfit import VectorFit, VectorFitConfig
from genft.ops import plan, spectral

SHAPES = [(6, 6), (9, 4), (4, 9)]
#: form, exact, lean: every way in which a layer can be computed
WAYS = [
    ("factored", True, False),
    ("published", False, False),
    ("materialised", True, False),
    ("weight", True, False),
    ("factored", True, True),
    ("weight", True, True),
]


def shape(o: int, i: int, tokens: int, **settings: Any) -> plan.Shape:
    """What VectorFit tells the plan of a weight (o, i)."""
    given: dict[str, Any] = {"training": True, "exact_sum": True, "bases": 2, **settings}
    return plan.Shape(o=o, i=i, tokens=tokens, rank=min(o, i), **given)


class Layer:
    """One frozen linear weight with VectorFit on it, in one form."""

    def __init__(self, o: int, i: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.w0 = torch.randn(o, i, generator=generator, dtype=dtype)
        self.b0 = torch.randn(o, generator=generator, dtype=dtype)
        u, self.sigma, vh = torch.linalg.svd(self.w0.double(), full_matrices=False)
        self.u, self.v = u.to(dtype), vh.T.to(dtype).contiguous()
        self.sigma = self.sigma.to(dtype)
        self.delta = torch.randn(min(o, i), generator=generator, dtype=dtype)

    def base(self, x: Tensor, delta: Tensor | None = None) -> Tensor:
        return F.linear(x, self.w0 if delta is None else self.w0 + delta, self.b0)

    def call(self, x: Tensor, delta: Tensor, way: tuple[str, bool, bool]) -> Tensor:
        form, exact, lean = way
        bases = {"u": self.u, "v": self.v}
        if lean:
            del bases["v" if self.w0.shape[0] < self.w0.shape[1] else "u"]
        f = {**bases, "sigma": self.sigma, "sigma_bias": delta}
        method = VectorFit(VectorFitConfig(exact=exact, lean=lean))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "choose", lambda *args: form)
            y = method.linear(x, self.base, self.b0, f, shape(*self.w0.shape, len(x)))
        if y is None:  # the general form
            update = method.delta_weight(self.w0, f)
            assert update is not None
            return self.base(x, update)
        return y


def gradients(layer: Layer, x: Tensor, way: tuple[str, bool, bool]) -> tuple[Tensor, Tensor, Tensor]:
    """(y, ∂x, ∂δ) for a fixed ∂y."""
    x, delta = x.clone().requires_grad_(), layer.delta.clone().requires_grad_()
    y = layer.call(x, delta, way)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), (x, delta))


@settings(max_examples=40, deadline=None)
@given(
    o=st.integers(1, 12),
    i=st.integers(1, 12),
    tokens=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    way=st.sampled_from(WAYS),
)
def test_every_form_is_the_same_function(o: int, i: int, tokens: int, seed: int, way: tuple[str, bool, bool]) -> None:
    layer = Layer(o, i, seed=seed)
    # the lean form is known to lose digits where W0 is nearly singular
    assume(not way[2] or layer.sigma.min() > 1e-3 * layer.sigma.max())
    x = torch.randn(tokens, i, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    w = (layer.u * (layer.sigma + layer.delta)) @ layer.v.T
    y, dx, ddelta = gradients(layer, x, way)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    torch.testing.assert_close(y, F.linear(x, w, layer.b0), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(dx, dy @ w, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ddelta, ((dy @ layer.u) * (x @ layer.v)).sum(0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("tokens", [(2, 3), ()])
def test_gradients_are_derivatives(
    sizes: tuple[int, int], way: tuple[str, bool, bool], tokens: tuple[int, ...]
) -> None:
    layer = Layer(*sizes)
    x = torch.randn(*tokens, sizes[1], dtype=torch.float64, requires_grad=True)
    delta = layer.delta.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, d: layer.call(x, d, way), (x, delta))


@pytest.mark.parametrize("way", [way for way in WAYS if way[1]])
@pytest.mark.parametrize("sizes", [(48, 48), (96, 32), (32, 96)])
def test_starts_exactly(sizes: tuple[int, int], way: tuple[str, bool, bool]) -> None:
    layer = Layer(*sizes, dtype=torch.float32)
    x = torch.randn(17, sizes[1])
    assert torch.equal(layer.call(x, torch.zeros_like(layer.delta), way), layer.base(x))


def test_without_w0_the_start_is_off_by_rounding() -> None:
    layer = Layer(96, 96, dtype=torch.float32)
    x = torch.randn(64, 96)
    apart = layer.call(x, torch.zeros_like(layer.delta), ("published", False, False)) - layer.base(x)
    assert 0 < apart.abs().max() < 1e-4


@pytest.mark.parametrize("sizes", SHAPES)
def test_lean_leaves_alone_what_w0_does_not_have(sizes: tuple[int, int]) -> None:
    """A direction with σ0 = 0 cannot be made from W0: it is left out, and nothing becomes infinite."""
    layer = Layer(*sizes, dtype=torch.float32)
    layer.sigma[-1] = 0
    layer.w0 = (layer.u * layer.sigma) @ layer.v.T
    without = layer.delta.clone()
    without[-1] = 0
    x = torch.randn(5, sizes[1])
    wanted = F.linear(x, layer.w0 + (layer.u * without) @ layer.v.T, layer.b0)
    for form in ("factored", "weight"):
        got = layer.call(x, layer.delta, (form, True, True))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", [("factored", True, False), ("published", False, False)])
def test_under_autocast(way: tuple[str, bool, bool]) -> None:
    layer = Layer(32, 24, dtype=torch.float32)
    x, delta = torch.randn(10, 24, requires_grad=True), layer.delta.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer.call(x, delta, way)
    y.float().square().sum().backward()
    exact = Layer(32, 24, dtype=torch.float32)
    x2, delta2 = x.detach().requires_grad_(), layer.delta.clone().requires_grad_()
    reference = exact.call(x2, delta2, way)
    reference.square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
    assert delta.grad is not None
    assert x.grad.dtype == delta.grad.dtype == torch.float32
    for got, wanted in ((y, reference), (x.grad, x2.grad), (delta.grad, delta2.grad)):
        assert wanted is not None
        assert (got.float() - wanted).norm() < 0.03 * wanted.norm()


def counted(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [(32, 32), (64, 16), (16, 64)])
def test_the_plan_counts_what_is_computed(sizes: tuple[int, int], way: tuple[str, bool, bool], training: bool) -> None:
    form, exact, lean = way
    layer, tokens = Layer(*sizes), 40
    x = torch.randn(tokens, sizes[1], dtype=torch.float64, requires_grad=training)
    delta = layer.delta.clone().requires_grad_(training)

    def run() -> None:
        with torch.set_grad_enabled(training):
            y = layer.call(x, delta, way)
        if training:
            y.sum().backward()

    s = shape(*sizes, tokens, training=training, exact=exact, bases=1 if lean else 2)
    assert counted(run) == plan.flops(form, s)  # type: ignore[arg-type]


def test_second_derivatives_are_refused() -> None:
    layer = Layer(4, 4)
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    y = layer.call(x, layer.delta.clone().requires_grad_(), ("factored", True, False))
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_inverse_guards_small_singular_values() -> None:
    sigma = torch.tensor([2.0, 1e-2, 1e-9, 0.0])
    assert spectral.inverse(sigma).tolist() == pytest.approx([0.5, 100.0, 0.0, 0.0])
