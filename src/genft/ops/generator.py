"""GenFT's generator of ΔW from W0, at the cost of thin products.

    F  = mask( act_row( inner( ratio · W0 P1 + p1 ) Q1ᵀ + q1 ) )     (o, i)    arXiv 2506.11042, Eq. 5
    D  = mask( act_col( inner( Fᵀ P2 + p2 ) Q2ᵀ + q2 ) )             (i, o)    Eq. 7
    ΔW = scaling · Dᵀ                                                (o, i)

The paper's equations have neither the inner activation nor the biases p, q, but the authors' code has both.
:func:`generate_plain` implements exactly the equations above. Algorithm 1 of the paper forms U = P1 Q1ᵀ and
V = P2 Q2ᵀ, which costs 10 d³ per step; in the order above, a step costs at most 26 d² r (13 products with a thin
factor). With

    A = inner( ratio · W0 P1 + p1 )  (o, r)      B = inner( Fᵀ P2 + p2 )  (i, r)
    F = mask( act_row( [A 1] [Q1 q1]ᵀ ) )         ΔW = scaling · mask( act_col( [Q2 q2] [B 1]ᵀ ) )

only two operations work on a full matrix (``ops/entries.py``): ``contract`` computes B from A, ``entries`` computes ΔW.
An inner activation applies to r columns and a bias is one more column, so both are nearly free. If the last stage has
neither an activation on its entries nor a mask, ΔW itself is a product of two thin factors (:func:`low_rank`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genft.errors import ConfigError, not_one_of
from genft.ops.entries import ACTIVATIONS, SLOPE, contract, entries, no_autocast, project
from genft.ops.masks import entry_mask, keep_probability, unpack
from genft.ops.tracing import is_transformed

PLAIN_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, SLOPE),
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


class Stage(NamedTuple):
    """The factors of one stage of width d (i for the row stage, o for the column stage).

    Attributes:
        p: (d, r), from the full width to the bottleneck.
        q: (d, r), from the bottleneck back to the full width.
        p_bias: (r,), added before the inner activation.
        q_bias: (d,), added before the outer one.
    """

    p: Tensor
    q: Tensor
    p_bias: Tensor | None = None
    q_bias: Tensor | None = None


class Form(NamedTuple):
    """The operations of the generator besides products.

    Attributes:
        act_row, act_col: activation on the entries of F, and of D; a name in ``ACTIVATIONS``.
        inner: activation on both bottlenecks.
        ratio: scale of W0 (the paper's ratio).
        scaling: scale of ΔW; a 0-dim tensor if it depends on W0.
        normalise: divide the columns of B by their norms (those of A if there is no column stage).
        dropout: probability of dropping an entry of F, and of D; kept entries are divided by the exact probability of
            keeping them.
    """

    act_row: str = "identity"
    act_col: str = "identity"
    inner: str = "identity"
    ratio: float = 1.0
    scaling: float | Float[Tensor, ""] = 1.0
    normalise: bool = False
    dropout: float = 0.0

    def last(self, col: Stage | None) -> str:
        """The activation on the entries of ΔW."""
        return self.act_row if col is None else self.act_col


def generate(
    w0: Float[Tensor, "o i"],
    row: Stage | None,
    col: Stage | None,
    form: Form = Form(),  # noqa: B008 - immutable
    *,
    seed: int | Tensor | None = None,
) -> Float[Tensor, "o i"]:
    """Compute ΔW in the dtype of the factors, once differentiable in the factors.

    Args:
        w0: the frozen weight, with any float dtype and strides; it never gets a gradient.
        row: the factors of the row stage, or None to skip it: F = ratio · W0.
        col: the factors of the column stage, or None to skip it: ΔW = scaling · F.
        form: activations, ratio, scaling, dropout.
        seed: fixes the masks, a 0-dim int64 tensor under ``torch.compile``; None means no dropout.

    Raises:
        ConfigError: an unknown activation, a dropout that is not a probability, or no stage at all.
    """
    seed = None if _check(row, col, form, seed) == 1.0 else seed
    with no_autocast(w0.device):
        if is_transformed():  # operations of our own have no rule for vmap
            return generate_plain(w0, row, col, form, seed=seed)
        if seed is None and form.last(col) == "identity":
            left, right = low_rank(w0, row, col, form)
            return left @ right.T
        x, y = _last_factors(w0, row, col, form, seed)
        return masked_product(x, y, form.last(col), form.scaling, form.dropout, seed, stream=int(col is not None))


def low_rank(
    w0: Float[Tensor, "o i"] | Sequence[Float[Tensor, "o i"]],
    row: Stage | None,
    col: Stage | None,
    form: Form = Form(),  # noqa: B008 - immutable
) -> tuple[Float[Tensor, "*n o k"], Float[Tensor, "*m i k"]]:
    """(L, R) with ΔW = L Rᵀ, for a last stage without an activation on its entries and without dropout.

    k is the rank r, plus one if the last stage has a bias. n weights of one shape are computed together if ``w0`` is
    the sequence of them: factors and a scaling that differ between them are stacked along a first dimension, and ``P``
    of the first stage is (n, d, r) in any case. If there are two stages, the first must have no activation on its
    entries.
    """
    if row is None and col is None:
        raise _no_stage()
    if form.last(col) != "identity":
        raise ValueError(f"low_rank: the last stage has the activation {form.last(col)!r}")
    with no_autocast(w0.device if isinstance(w0, Tensor) else w0[0].device):
        if _is_linear(row, col, form):
            return _linear(w0, row, col, form)
        x, y = _last_factors(w0, row, col, form, None)
        return form.scaling * x, y


def masked_product(
    x: Float[Tensor, "m k"],
    y: Float[Tensor, "n k"],
    act: str,
    scaling: float | Tensor,
    dropout: float,
    seed: int | Tensor | None,
    *,
    stream: int = 0,
) -> Float[Tensor, "m n"]:
    """scaling · mask(act(X Yᵀ)); ``stream`` distinguishes masks with the same seed."""
    mask, keep = None, 1.0 if seed is None else keep_probability(dropout)
    if seed is not None and keep < 1:
        mask = entry_mask((len(x), len(y)), dropout, seed, x.device, stream=stream)
    if isinstance(scaling, Tensor):
        return scaling * entries(x, y, mask, act, 1 / keep)
    return entries(x, y, mask, act, scaling / keep)


def generate_plain(
    w0: Float[Tensor, "o i"],
    row: Stage | None,
    col: Stage | None,
    form: Form = Form(),  # noqa: B008 - immutable
    *,
    seed: int | Tensor | None = None,
) -> Float[Tensor, "o i"]:
    """The same as :func:`generate`, computed in the order of the equations."""
    keep = _check(row, col, form, seed)
    inner, act_row, act_col = (PLAIN_ACTIVATIONS[name] for name in (form.inner, form.act_row, form.act_col))

    def mask(x: Tensor, stream: int) -> Tensor:
        if seed is None:
            return x
        packed = entry_mask((w0.shape[0], w0.shape[1]), form.dropout, seed, w0.device, stream=stream)
        return x * unpack(packed, len(x)) / keep

    f = form.ratio * w0.to((row or col)[0].dtype)  # type: ignore[index]
    if row is not None:
        a = inner(_biased(f @ row.p, row.p_bias))
        a = a / a.norm(dim=0) if form.normalise and col is None else a
        f = mask(act_row(_biased(a @ row.q.T, row.q_bias)), 0)
    if col is not None:
        b = inner(_biased(f.T @ col.p, col.p_bias))
        b = b / b.norm(dim=0) if form.normalise else b
        f = mask(act_col(_biased(b @ col.q.T, col.q_bias)).T, 1)
    return form.scaling * f


def _last_factors(
    w0: Tensor | Sequence[Tensor], row: Stage | None, col: Stage | None, form: Form, seed: int | Tensor | None
) -> tuple[Tensor, Tensor]:
    """(X, Y), (o, k) and (i, k), of the last stage: ΔW = scaling · mask(act(X Yᵀ))."""
    keep = 1.0 if seed is None else keep_probability(form.dropout)
    if row is None:
        assert col is not None
        b = form.ratio * _projected(w0, col.p, True)
    else:
        a = _bottleneck(form.ratio * _projected(w0, row.p, False), row, form, last=col is None)
        q1 = row.q if row.q_bias is None else _with_column(row.q, row.q_bias[:, None])
        if col is None:
            return a, q1
        if seed is None and form.act_row == "identity":
            b = q1 @ (a.mT @ col.p)
        else:
            mask = None if seed is None else entry_mask((len(a), len(q1)), form.dropout, seed, a.device)
            b = contract(a, q1, col.p, mask, form.act_row, 1 / keep)
    b = _bottleneck(b, col, form, last=True)
    return (col.q if col.q_bias is None else _with_column(col.q, col.q_bias[:, None])), b


def _bottleneck(z: Tensor, stage: Stage, form: Form, *, last: bool) -> Tensor:
    """[inner(Z + p) 1], its columns divided by their norms if ``form.normalise`` and this is the last bottleneck; the
    column of ones is added for a bias q."""
    z = PLAIN_ACTIVATIONS[form.inner](_biased(z, stage.p_bias))
    if form.normalise and last:
        z = F.normalize(z, dim=-2)
    return z if stage.q_bias is None else _with_column(z, z.new_ones(z.shape[-2], 1))


def _with_column(t: Tensor, column: Tensor) -> Tensor:
    """[T c] for T (..., d, k) and c (d, 1)."""
    return torch.cat([t, column.expand(*t.shape[:-1], 1)], dim=-1)


class _ThinProducts(torch.autograd.Function):
    """W0 P or W0ᵀ P, (n, m, r), for n weights of one shape and P (n, d, r)."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, transposed: bool, *w0: Tensor) -> Tensor:
        ctx.transposed = transposed
        ctx.save_for_backward(*w0)
        made = p.new_empty(len(w0), p.shape[-1], w0[0].shape[int(transposed)])
        for w, thin, out in zip(w0, p.mT.unbind(), made.unbind(), strict=True):
            torch.mm(thin, w if transposed else w.T, out=out)  # the rank first: up to twice as fast
        return made.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        w0 = ctx.saved_tensors
        return _ThinProducts.apply(grad, not ctx.transposed, *w0), None, *(None for _ in w0)


def _projected(w0: Tensor | Sequence[Tensor], p: Tensor, transposed: bool) -> Tensor:
    """``project``, of one weight or several."""
    if isinstance(w0, Tensor):
        return project(w0, p, transposed)
    if w0[0].dtype == p.dtype:
        return _ThinProducts.apply(p, transposed, *(w.detach() for w in w0))
    return torch.stack([project(w, thin, transposed) for w, thin in zip(w0, p.unbind(), strict=True)])


def _thin(w0: Tensor | Sequence[Tensor], p: Tensor, transposed: bool) -> Tensor:
    """Like ``project``, but as a plain product where possible, without the overhead of a custom operation."""
    if not isinstance(w0, Tensor):
        return _projected(w0, p, transposed)
    if w0.dtype != p.dtype or torch.compiler.is_compiling():
        return project(w0, p, transposed)
    w0 = w0.detach()
    return torch.mm(p.T, w0 if transposed else w0.T).T  # the rank first: up to twice as fast


def _linear(w0: Tensor | Sequence[Tensor], row: Stage | None, col: Stage | None, form: Form) -> tuple[Tensor, Tensor]:
    """:func:`low_rank` for products only; with both stages, W0 enters through an r × r core."""
    if row is None:
        assert col is not None
        return form.scaling * col.q, form.ratio * _thin(w0, col.p, True)
    a = _thin(w0, row.p, False)
    if col is None:
        return (form.ratio * form.scaling) * a, row.q
    return col.q @ ((form.ratio * form.scaling) * (col.p.mT @ a)), row.q


def _is_linear(row: Stage | None, col: Stage | None, form: Form) -> bool:
    stages = [(s, act) for s, act in ((row, form.act_row), (col, form.act_col)) if s is not None]
    plain = all(s.p_bias is None and s.q_bias is None and act == form.inner == "identity" for s, act in stages)
    return plain and not form.normalise


def _biased(z: Tensor, bias: Tensor | None) -> Tensor:
    return z if bias is None else z + bias


def _check(row: Stage | None, col: Stage | None, form: Form, seed: int | Tensor | None) -> float:
    """Check the arguments; return the exact probability of keeping an entry, 1.0 without dropout."""
    for where in ("act_row", "act_col", "inner"):
        if (act := getattr(form, where)) not in ACTIVATIONS:
            raise ConfigError(not_one_of(where, act, ACTIVATIONS))
    if not 0 <= form.dropout < 1:
        raise ConfigError(f"dropout: {form.dropout} is not a probability below 1")
    if row is None and col is None:
        raise _no_stage()
    return 1.0 if seed is None else keep_probability(form.dropout)


def _no_stage() -> ConfigError:
    return ConfigError("row, col: neither a row stage nor a column stage; at least one is needed")
