"""The operations of GenFT's generator that work on full (not thin) matrices.

* :func:`project`   W0 P or W0ᵀ P, for a W0 of any float dtype,
* :func:`entries`   scale · mask(act(X Yᵀ)), a full matrix from thin factors, and
* :func:`contract`  Eᵀ P with E = scale · mask(act(X Yᵀ)), where E is computed, used and discarded tile by tile.

They save thin factors and packed masks for the backward pass and recompute the entries there. A tile is small enough to
stay in cache for activation and mask. The operations run on any device, are opaque to ``torch.compile`` and have no
second derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.library import CustomOpDef

from genft.ops.masks import spread, zero_dropped_

aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation on matrix entries. Results are written to ``out``, which may be one of the arguments.

    Attributes:
        forward: (z, out) → y = act(z).
        backward: (g, s, out) → g · act'(z).
        reads: the tensor s from which ``backward`` computes act': z, y, or none.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    reads: Literal["z", "y", ""] = "y"


SLOPE = 0.01
ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z, out: out.copy_(z), lambda g, s, out: out.copy_(g), reads=""),
    "relu": Activation(
        lambda z, out: torch.clamp_min(z, 0, out=out),
        lambda g, y, out: aten.threshold_backward.grad_input(g, y, 0, grad_input=out),
    ),
    "leaky_relu": Activation(
        lambda z, out: aten.leaky_relu.out(z, SLOPE, out=out),
        lambda g, y, out: aten.leaky_relu_backward.grad_input(g, y, SLOPE, False, grad_input=out),
    ),
    "gelu": Activation(
        lambda z, out: aten.gelu.out(z, out=out),
        lambda g, z, out: aten.gelu_backward.grad_input(g, z, grad_input=out),
        reads="z",
    ),
    "tanh": Activation(
        lambda z, out: torch.tanh(z, out=out),
        lambda g, y, out: aten.tanh_backward.grad_input(g, y, grad_input=out),
    ),
}


def _operation(schema: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """An operation that is opaque to ``torch.compile`` and ignores autocast: it computes in its arguments' dtype."""

    def register(compute: Callable[..., Any]) -> CustomOpDef:
        def run(*args: Any) -> Any:
            with no_autocast(args[0].device):
                return compute(*args)

        name, _, signature = schema.partition("(")
        return torch.library.custom_op(f"genft::{name}", run, mutates_args=(), schema=f"({signature}")

    return register


@_operation("project(Tensor w0, Tensor p, bool transposed) -> Tensor")
def project(w0: Float[Tensor, "o i"], p: Float[Tensor, "n r"], transposed: bool) -> Float[Tensor, "m r"]:
    """W0 P, or W0ᵀ P if ``transposed``; a W0 of another dtype than P is converted tile by tile."""
    if w0.dtype == p.dtype:
        return torch.mm(p.T, w0 if transposed else w0.T).T.contiguous()  # the rank first: up to twice as fast
    total = _zeros(p.shape[1], w0.shape[1], p).T if transposed else _zeros(len(w0), p.shape[1], p)
    for t, c, _, tile in _tiles(w0.shape, p, None, 1):
        tile.copy_(w0[t, c])
        if transposed:
            _add_product_(total[c], tile.T, p[t])
        else:
            _add_product_(total[t], tile, p[c])
    return _finished(total, p)


@project.register_fake
def _(w0: Tensor, p: Tensor, transposed: bool) -> Tensor:
    return p.new_empty(w0.shape[1 if transposed else 0], p.shape[1])


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    w0, _, ctx.transposed = inputs
    ctx.save_for_backward(w0)


def _project_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (w0,) = ctx.saved_tensors
    return None, project(w0, grad, not ctx.transposed), None


project.register_autograd(_project_gradients, setup_context=_project_setup)


@_operation("entries(Tensor x, Tensor y, Tensor? mask, str act, float scale) -> Tensor")
def entries(
    x: Float[Tensor, "m r"], y: Float[Tensor, "n r"], mask: UInt8[Tensor, "octets n"] | None, act: str, scale: float
) -> Float[Tensor, "m n"]:
    """E = scale · mask(act(X Yᵀ)) (m, n) from X (m, r) and Y (n, r)."""
    e = x.new_empty(len(x), len(y))
    for t, c, bits, z in _tiles(e.shape, x, mask, 1):
        torch.mm(x[t], y[c].T, out=z)
        ACTIVATIONS[act].forward(z, z)
        _mask_(z, bits)
        torch.mul(z, scale, out=e[t, c])
    return e


@entries.register_fake
def _(x: Tensor, y: Tensor, mask: Tensor | None, act: str, scale: float) -> Tensor:
    return x.new_empty(len(x), len(y))


@_operation(
    "entries_backward(Tensor grad, Tensor x, Tensor y, Tensor? mask, str act, float scale, bool[] needed)"
    " -> (Tensor, Tensor)"
)
def _entries_backward(
    grad: Tensor, x: Tensor, y: Tensor, mask: Tensor | None, act: str, scale: float, needed: list[bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of X and Y: H Y and Hᵀ X, H = scale · mask(act'(X Yᵀ) ∘ grad); empty if not needed."""
    activation = ACTIVATIONS[act]
    dx, dy = _gradients(x, y, needed)
    for t, c, bits, h in _tiles(grad.shape, x, mask, 1):
        if activation.reads:
            torch.mm(x[t], y[c].T, out=h)
        if activation.reads == "y":
            activation.forward(h, h)
        activation.backward(grad[t, c], h, h)
        _mask_(h, bits)
        _add_gradients_(h, x[t], y[c], dx[t], dy[c], scale)
    return _finished(dx, x), _finished(dy, y)


@_entries_backward.register_fake
def _(
    grad: Tensor, x: Tensor, y: Tensor, mask: Tensor | None, act: str, scale: float, needed: list[bool]
) -> tuple[Tensor, Tensor]:
    return _rows(x, needed[0]), _rows(y, needed[1])


def _entries_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, mask, ctx.act, ctx.scale = inputs
    ctx.save_for_backward(x, y, mask)


def _entries_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:2]
    d = _entries_backward(grad, *ctx.saved_tensors, ctx.act, ctx.scale, list(needed))
    return *(g if n else None for g, n in zip(d, needed, strict=True)), None, None, None


entries.register_autograd(_entries_gradients, setup_context=_entries_setup)


@_operation("contract(Tensor x, Tensor y, Tensor p, Tensor? mask, str act, float scale) -> Tensor")
def contract(
    x: Float[Tensor, "m r"],
    y: Float[Tensor, "n r"],
    p: Float[Tensor, "m k"],
    mask: UInt8[Tensor, "octets n"] | None,
    act: str,
    scale: float,
) -> Float[Tensor, "n k"]:
    """Eᵀ P (n, k) with E = scale · mask(act(X Yᵀ)) from X (m, r), Y (n, r) and P (m, k)."""
    total = _zeros(p.shape[1], len(y), p).T
    for t, c, bits, e in _tiles((len(x), len(y)), x, mask, 1):
        torch.mm(x[t], y[c].T, out=e)
        ACTIVATIONS[act].forward(e, e)
        _mask_(e, bits)
        _add_product_(total[c], e.T, p[t], scale)
    return _finished(total, p)


@contract.register_fake
def _(x: Tensor, y: Tensor, p: Tensor, mask: Tensor | None, act: str, scale: float) -> Tensor:
    return p.new_empty(len(y), p.shape[1])


@_operation(
    "contract_backward(Tensor grad, Tensor x, Tensor y, Tensor p, Tensor? mask, str act, float scale,"
    " bool[] needed) -> (Tensor, Tensor, Tensor)"
)
def _contract_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    p: Tensor,
    mask: Tensor | None,
    act: str,
    scale: float,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of X, Y and P; empty if not needed.

    dP = E grad, and with H = scale · mask(act'(X Yᵀ) ∘ P gradᵀ) dX = H Y and dY = Hᵀ X.
    """
    activation = ACTIVATIONS[act]
    dx, dy = _gradients(x, y, needed)
    dp = _zeros(len(p) if needed[2] else 0, p.shape[1], p)
    for t, c, bits, z, h, e in _tiles((len(x), len(y)), x, mask, 3):
        torch.mm(x[t], y[c].T, out=z)
        e = activation.forward(z, e if activation.reads == "z" else z)
        _mask_(e, bits)
        if needed[2]:
            _add_product_(dp[t], e, grad[c], scale)
        if needed[0] or needed[1]:
            torch.mm(p[t], grad[c].T, out=h)
            activation.backward(h, z, h)
            _mask_(h, bits)
            _add_gradients_(h, x[t], y[c], dx[t], dy[c], scale)
    return _finished(dx, x), _finished(dy, y), _finished(dp, p)


@_contract_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    p: Tensor,
    mask: Tensor | None,
    act: str,
    scale: float,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return _rows(x, needed[0]), _rows(y, needed[1]), _rows(p, needed[2])


def _contract_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, p, mask, ctx.act, ctx.scale = inputs
    ctx.save_for_backward(x, y, p, mask)


def _contract_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:3]
    d = _contract_backward(grad, *ctx.saved_tensors, ctx.act, ctx.scale, list(needed))
    return *(g if n else None for g, n in zip(d, needed, strict=True)), None, None, None


contract.register_autograd(_contract_gradients, setup_context=_contract_setup)


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("genft generator: second derivatives are not implemented; use generate_plain")


for _backward in (_entries_backward, _contract_backward):
    _backward.register_autograd(_refuse_second_derivative)


# Helpers

# On a CPU, a tile and its thin factors stay in cache; on other devices, the tile size bounds the memory.
_TILE = {"cpu": (1024, 512)}
_LARGE_TILE = (8192, 8192)


def _tiles(
    shape: torch.Size | tuple[int, int], like: Tensor, mask: Tensor | None, buffers: int
) -> Iterator[tuple[Any, ...]]:
    """Cut a matrix of this shape into tiles of about equal size.

    Yields a slice of rows, a slice of columns, their mask from :func:`spread` (or None), and ``buffers`` tiles to write
    to. All tiles reuse the same memory: fresh memory costs more than the arithmetic on it.
    """
    (m, n), (most_rows, most_columns) = shape, _TILE.get(like.device.type, _LARGE_TILE)
    rows = _ceil(_ceil(m, _ceil(m, most_rows)), 8) * 8  # masks are packed by 8 rows
    columns = _ceil(n, _ceil(n, most_columns))
    memory = like.new_empty(buffers, rows * columns)
    words = like.new_empty(rows * columns if mask is not None else 0)
    for i in range(0, m, rows):
        t = slice(i, min(i + rows, m))
        for j in range(0, n, columns):
            c = slice(j, min(j + columns, n))
            height, width = t.stop - i, c.stop - j
            bits = None
            if mask is not None:
                bits = spread(mask[:, c], t, words[: rows * width].view(rows, width))
            yield t, c, bits, *memory[:, : height * width].view(buffers, height, width)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _mask_(tile: Tensor, bits: Tensor | None) -> None:
    if bits is not None:
        zero_dropped_(tile, bits)


def _rows(like: Tensor, needed: bool) -> Tensor:
    return like.new_empty(like.shape if needed else (0, like.shape[1]))


def _zeros(rows: int, columns: int, like: Tensor) -> Tensor:
    """Zeros to sum tiles into, in float32 or better, because bfloat16 would lose the contribution of each tile."""
    return like.new_zeros(rows, columns, dtype=torch.promote_types(like.dtype, torch.float32))


def _gradients(x: Tensor, y: Tensor, needed: list[bool]) -> tuple[Tensor, Tensor]:
    """Zeros for dX and dY. dY is stored transposed: BLAS adds the transpose of a tile faster to long rows."""
    dx = _zeros(len(x) if needed[0] else 0, x.shape[1], x)
    return dx, _zeros(y.shape[1], len(y) if needed[1] else 0, y).T


def _add_gradients_(h: Tensor, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor, scale: float) -> None:
    """Add a tile's scale · H Y to dX and scale · Hᵀ X to dY, each only if it is needed (not empty)."""
    if dx.numel():
        _add_product_(dx, h, y, scale)
    if dy.numel():
        _add_product_(dy, h.T, x, scale)


def _add_product_(total: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b, alpha=scale)
    else:
        total.add_(a @ b, alpha=scale)


def _finished(total: Tensor, like: Tensor) -> Tensor:
    return total.to(like.dtype).contiguous()


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Where autocast is on, a context without it."""
    return torch.autocast(device.type, enabled=False) if autocast_is_on(device) else nullcontext()


def autocast_is_on(device: torch.device) -> bool:
    """Whether autocast is on for this kind of device."""
    # only "meta" has no autocast; torch up to 2.9 cannot trace is_autocast_available()
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
