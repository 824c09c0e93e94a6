"""The low-rank layer: both forms are the function and have its derivatives, and keep nothing large."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genft.ops.lowrank import low_rank_linear

FORMS = ["factored", "materialised"]
ROWS = [[(0, 9)], [(0, 3), (6, 9)], [(2, 7), (5, 9)]]  # whole, slices, overlapping


def problem(rows: list[tuple[int, int]], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    pairs = [torch.randn(n, 2, dtype=dtype) for start, stop in rows for n in (stop - start, 5)]
    tensors = torch.randn(2, 3, 5, dtype=dtype), torch.randn(9, 5, dtype=dtype), torch.randn(9, dtype=dtype), *pairs
    return tuple(t if n == 1 else t.requires_grad_() for n, t in enumerate(tensors))


def call(form: str, rows: list[tuple[int, int]], x: Tensor, w0: Tensor, b: Tensor | None, *pairs: Tensor) -> Tensor:
    return low_rank_linear(x, w0, b, rows, list(zip(pairs[::2], pairs[1::2], strict=True)), form=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", ROWS)
def test_value_and_derivatives(form: str, rows: list[tuple[int, int]]) -> None:
    x, w0, b, *pairs = problem(rows)
    w = w0.clone()
    for (start, stop), left, right in zip(rows, pairs[::2], pairs[1::2], strict=True):
        w[start:stop] += (left @ right.T).detach()
    torch.testing.assert_close(call(form, rows, x, w0, b, *pairs), F.linear(x, w, b))
    torch.testing.assert_close(call(form, rows, x, w0, None, *pairs), F.linear(x, w))
    assert torch.autograd.gradcheck(lambda x, b, *pairs: call(form, rows, x, w0, b, *pairs), (x, b, *pairs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("frozen", [0, 2, 3, 4])
def test_what_needs_no_gradient_gets_none(form: str, frozen: int) -> None:
    tensors = list(problem([(0, 9)]))
    wanted = torch.autograd.grad(call(form, [(0, 9)], *tensors).sum(), [t for t in tensors if t.requires_grad])
    tensors[frozen] = tensors[frozen].detach()
    left = [t for t in tensors if t.requires_grad]
    found = iter(torch.autograd.grad(call(form, [(0, 9)], *tensors).sum(), left))
    for n, gradient in zip([0, 2, 3, 4], wanted, strict=True):
        if n != frozen:
            torch.testing.assert_close(next(found), gradient)


@pytest.mark.parametrize("form", FORMS)
def test_a_zero_factor_changes_nothing_at_all(form: str) -> None:
    x, w0, b, left, right = problem([(0, 9)], torch.float32)
    assert torch.equal(call(form, [(0, 9)], x, w0, b, torch.zeros_like(left), right), F.linear(x, w0, b))


@pytest.mark.parametrize("form", FORMS)
def test_keeps_nothing_as_large_as_a_weight(form: str) -> None:
    w0, x = torch.randn(64, 64), torch.randn(80, 64)
    left, right = torch.randn(64, 2, requires_grad=True), torch.randn(64, 2, requires_grad=True)
    kept: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        low_rank_linear(x, w0, None, [(0, 64)], [(left, right)], form=form)
    own = [t for t in kept if not any(t.data_ptr() == known.data_ptr() for known in (x, w0, left, right))]
    assert sum(t.numel() for t in own) <= 2 * 80


@pytest.mark.parametrize("form", FORMS)
def test_compiles(form: str) -> None:
    x, w0, b, *pairs = problem([(0, 3), (6, 9)])
    compiled: Any = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(form, [(0, 3), (6, 9)], x, w0, b, *pairs), call(form, [(0, 3), (6, 9)], x, w0, b, *pairs)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (5,)])
def test_no_token_and_a_single_one(form: str, shape: tuple[int, ...]) -> None:
    _, w0, b, left, right = problem([(0, 9)])
    x = torch.randn(shape, dtype=w0.dtype, requires_grad=True)
    y = call(form, [(0, 9)], x, w0, b, left, right)
    torch.testing.assert_close(y, F.linear(x, w0 + left @ right.T, b))
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(dx, (w0 + left @ right.T).sum(0).expand(shape))
