"""GenFT's generator, ΔW from W0, at the cost of its thin factors.

    F  = mask( act_row( ratio · (W0 P1) Q1ᵀ ) )     (o, i)    arXiv 2506.11042, Eq. 5
    D  = mask( act_col( (Fᵀ P2) Q2ᵀ ) )             (i, o)    Eq. 7
    ΔW = scaling · Dᵀ                               (o, i)

:func:`generate_plain` says just that. Algorithm 1 of the paper forms U = P1 Q1ᵀ and V = P2 Q2ᵀ and pays
10 d³ for a step; in the order above a step costs at most 26 d² r (13 products with a thin factor).
Written with

    A = ratio · W0 P1  (o, r)       B = Fᵀ P2  (i, r)       ΔW = scaling · mask( act_col( Q2 Bᵀ ) )

only two operations see a matrix that is not thin, and :func:`generate` is made of them:

* ``contract``  B = mask(act(A Q1ᵀ))ᵀ P2, where F is made, used and forgotten tile by tile, and
* ``entries``   ΔW = scaling · mask(act(Q2 Bᵀ)).

Both keep thin factors and packed masks for the backward pass and make the entries again there. A tile is
a few rows, small enough that activation and mask find it in cache. A stage with neither an activation
nor a mask is a plain thin product. The operations are opaque to ``torch.compile`` and have no second
derivative. They are written for any device; they have been run on CPUs only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.library import CustomOpDef

from genft.errors import ConfigError, not_one_of
from genft.ops.masks import entry_mask, keep_probability, spread, unpack, zero_dropped_

Stage = tuple[Tensor, Tensor]

aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation on matrix entries. Results go to ``out``, which may be one of the arguments.

    Attributes:
        forward: (z, out) → y = act(z).
        backward: (g, s, out) → g · act'(z).
        reads: what ``backward`` computes act' from, s: z, y, or nothing at all.
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


def generate(
    w0: Tensor,
    row: Stage | None,
    col: Stage | None,
    *,
    act_row: str = "identity",
    act_col: str = "identity",
    ratio: float = 1.0,
    scaling: float = 1.0,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
) -> Tensor:
    """ΔW (o, i), in the dtype of the factors, differentiable once in the factors.

    Args:
        w0: the frozen weight (o, i), of any float dtype and strides; it never gets a gradient.
        row: (P1, Q1), each (i, r); None leaves the row stage out: F = ratio · W0.
        col: (P2, Q2), each (o, r); None leaves the column stage out: ΔW = scaling · F.
        act_row, act_col: a name in :data:`ACTIVATIONS`.
        ratio: how much of W0 goes in (the paper's w0_ratio).
        scaling: factor on ΔW.
        dropout: probability of dropping an entry of F, and of D; those kept are divided by the exact
            probability of keeping them.
        seed: fixes the masks, a 0-dim int64 tensor under ``torch.compile``; None means no dropout.
    """
    keep = _check(row, col, act_row, act_col, dropout, seed)
    if keep == 1.0:
        dropout, seed = 0.0, None
    linear_row, linear_col = (seed is None and act == "identity" for act in (act_row, act_col))

    def mask(stream: int) -> Tensor | None:
        return None if seed is None else entry_mask(_shape(w0), dropout, seed, w0.device, stream=stream)

    with no_autocast(w0.device):
        if (linear_row or row is None) and (linear_col or col is None):
            left, right = low_rank(w0, row, col, ratio=ratio, scaling=scaling)
            return left @ right.T
        if row is not None:
            p1, q1 = row
            a = ratio * _project(w0, p1, False)
            if col is None:
                return _entries(a, q1, mask(0), act_row, scaling / keep)
            p2, q2 = col
            b = q1 @ (a.T @ p2) if linear_row else _contract(a, q1, p2, mask(0), act_row, 1 / keep)
        else:
            assert col is not None
            p2, q2 = col
            b = ratio * _project(w0, p2, True)
        if linear_col:
            return (scaling * q2) @ b.T
        return _entries(q2, b, mask(1), act_col, scaling / keep)


def generate_plain(
    w0: Tensor,
    row: Stage | None,
    col: Stage | None,
    *,
    act_row: str = "identity",
    act_col: str = "identity",
    ratio: float = 1.0,
    scaling: float = 1.0,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
) -> Tensor:
    """What :func:`generate` computes, in the order of the equations."""
    keep = _check(row, col, act_row, act_col, dropout, seed)

    def mask(x: Tensor, stream: int) -> Tensor:
        if seed is None:
            return x
        packed = entry_mask(_shape(w0), dropout, seed, w0.device, stream=stream)
        return x * unpack(packed, len(x)) / keep

    f = ratio * w0.to((row or col)[0].dtype)  # type: ignore[index]
    if row is not None:
        p1, q1 = row
        f = mask(_PLAIN[act_row](f @ p1 @ q1.T), 0)
    if col is not None:
        p2, q2 = col
        f = mask(_PLAIN[act_col](f.T @ p2 @ q2.T).T, 1)
    return scaling * f


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, SLOPE),
    "gelu": torch.nn.functional.gelu,
    "tanh": torch.tanh,
}


def low_rank(
    w0: Tensor, row: Stage | None, col: Stage | None, *, ratio: float = 1.0, scaling: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(L, R), L (o, r) and R (i, r): ΔW = L Rᵀ where activations are the identity and nothing is dropped.

    With both stages L = scaling · Q2 (P2ᵀ A) and R = Q1: W0 enters through an r × r core.
    """
    with no_autocast(w0.device):
        if row is None:
            if col is None:
                raise _no_stage()
            p2, q2 = col
            return scaling * q2, ratio * _thin(w0, p2, True)
        p1, q1 = row
        a = _thin(w0, p1, False)
        if col is None:
            return (ratio * scaling) * a, q1
        p2, q2 = col
        return q2 @ ((ratio * scaling) * (p2.T @ a)), q1


def _thin(w0: Tensor, p: Tensor, transposed: bool) -> Tensor:
    """:func:`_project`; where it is a product and no more, without the way through an operation of our own."""
    if w0.dtype != p.dtype or torch.compiler.is_compiling():
        return _project(w0, p, transposed)
    w0 = w0.detach()
    return torch.mm(p.T, w0 if transposed else w0.T).T


# Operations that touch a matrix that is not thin


def _operation(schema: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """An operation opaque to ``torch.compile``, computed in its arguments' dtype whatever autocast says."""

    def register(compute: Callable[..., Any]) -> CustomOpDef:
        def run(*args: Any) -> Any:
            with no_autocast(args[0].device):
                return compute(*args)

        name, _, signature = schema.partition("(")
        return torch.library.custom_op(f"genft::{name}", run, mutates_args=(), schema=f"({signature}")

    return register


@_operation("project(Tensor w0, Tensor p, bool transposed) -> Tensor")
def _project(w0: Tensor, p: Tensor, transposed: bool) -> Tensor:
    """W0 P, or W0ᵀ P where ``transposed``; a W0 of another dtype than P is converted tile by tile."""
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


@_project.register_fake
def _(w0: Tensor, p: Tensor, transposed: bool) -> Tensor:
    return p.new_empty(w0.shape[1 if transposed else 0], p.shape[1])


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    w0, _, ctx.transposed = inputs
    ctx.save_for_backward(w0)


def _project_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (w0,) = ctx.saved_tensors
    return None, _project(w0, grad, not ctx.transposed), None


_project.register_autograd(_project_gradients, setup_context=_project_setup)


@_operation("entries(Tensor x, Tensor y, Tensor? mask, str act, float scale) -> Tensor")
def _entries(x: Tensor, y: Tensor, mask: Tensor | None, act: str, scale: float) -> Tensor:
    """E = scale · mask(act(X Yᵀ)) (m, n) from X (m, r) and Y (n, r)."""
    e = x.new_empty(len(x), len(y))
    for t, c, bits, z in _tiles(e.shape, x, mask, 1):
        torch.mm(x[t], y[c].T, out=z)
        ACTIVATIONS[act].forward(z, z)
        _mask_(z, bits)
        torch.mul(z, scale, out=e[t, c])
    return e


@_entries.register_fake
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


_entries.register_autograd(_entries_gradients, setup_context=_entries_setup)


@_operation("contract(Tensor x, Tensor y, Tensor p, Tensor? mask, str act, float scale) -> Tensor")
def _contract(x: Tensor, y: Tensor, p: Tensor, mask: Tensor | None, act: str, scale: float) -> Tensor:
    """Eᵀ P (n, k) with E = scale · mask(act(X Yᵀ)) from X (m, r), Y (n, r) and P (m, k)."""
    total = _zeros(p.shape[1], len(y), p).T
    for t, c, bits, e in _tiles((len(x), len(y)), x, mask, 1):
        torch.mm(x[t], y[c].T, out=e)
        ACTIVATIONS[act].forward(e, e)
        _mask_(e, bits)
        _add_product_(total[c], e.T, p[t], scale)
    return _finished(total, p)


@_contract.register_fake
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
    """The gradients of X, Y and P; empty where not needed.

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


_contract.register_autograd(_contract_gradients, setup_context=_contract_setup)


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("genft generator: second derivatives are not implemented; use generate_plain")


for _backward in (_entries_backward, _contract_backward):
    _backward.register_autograd(_refuse_second_derivative)


# Helpers

# On a CPU a tile stays in cache with the thin factors beside it; elsewhere it bounds the memory.
_TILE = {"cpu": (1024, 512)}
_LARGE_TILE = (8192, 8192)


def _tiles(
    shape: torch.Size | tuple[int, int], like: Tensor, mask: Tensor | None, buffers: int
) -> Iterator[tuple[Any, ...]]:
    """Cut a matrix of this shape into tiles of about equal size.

    Yields a slice of rows and one of columns, their mask as :func:`spread` gives it (or None), and ``buffers``
    tiles to write to. The memory is the same for all tiles: fresh memory costs more than the arithmetic on it.
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
    """Where a sum over tiles starts: in float32 or better, because bfloat16 would lose what each tile adds."""
    return like.new_zeros(rows, columns, dtype=torch.promote_types(like.dtype, torch.float32))


def _gradients(x: Tensor, y: Tensor, needed: list[bool]) -> tuple[Tensor, Tensor]:
    """Zeros for dX and dY. dY is stored transposed: BLAS adds the transpose of a tile faster to long rows."""
    dx = _zeros(len(x) if needed[0] else 0, x.shape[1], x)
    return dx, _zeros(y.shape[1], len(y) if needed[1] else 0, y).T


def _add_gradients_(h: Tensor, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor, scale: float) -> None:
    """Add a tile's scale · H Y to dX and scale · Hᵀ X to dY, each where it is wanted (not empty)."""
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


def _shape(w0: Tensor) -> tuple[int, int]:
    rows, columns = w0.shape
    return rows, columns


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Where autocast is on, a context without it."""
    # only "meta" has no autocast; torch up to 2.9 cannot trace is_autocast_available()
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _check(
    row: Stage | None,
    col: Stage | None,
    act_row: str,
    act_col: str,
    dropout: float,
    seed: int | Tensor | None,
) -> float:
    """The exact probability of keeping an entry, 1.0 without dropout; what cannot be generated is refused."""
    for where, act in (("act_row", act_row), ("act_col", act_col)):
        if act not in ACTIVATIONS:
            raise ConfigError(not_one_of(where, act, ACTIVATIONS))
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout: {dropout} is not a probability below 1")
    if row is None and col is None:
        raise _no_stage()
    return 1.0 if seed is None else keep_probability(dropout)


def _no_stage() -> ConfigError:
    return ConfigError("row, col: neither a row stage nor a column stage; at least one is needed")
