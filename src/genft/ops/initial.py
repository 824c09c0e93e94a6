"""Initialisations of trained factors; each fills a tensor in place."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


def orthonormal_(t: Float[Tensor, "d k"], *, gain: float = 1.0) -> Float[Tensor, "d k"]:
    """Columns of norm about ``gain`` at every width: orthogonal if the rows suffice, else normal(0, gain/√rows)."""
    rows, columns = t.shape
    if t.is_meta:
        return t
    if columns <= rows:
        # torch's QR needs at least float32
        with torch.no_grad():
            t.copy_(nn.init.orthogonal_(torch.empty(rows, columns, dtype=torch.float32), gain))
        return t
    return nn.init.normal_(t, std=gain * rows**-0.5)


def linear_(t: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
    """nn.Linear's initialisation of its weight (o, i): U(-1/√i, 1/√i)."""
    return nn.init.kaiming_uniform_(t, a=5**0.5)


def linear_bias_(t: Float[Tensor, " o"], fan_in: int) -> Float[Tensor, " o"]:
    """nn.Linear's initialisation of the bias for a weight with ``fan_in`` columns: U(-1/√fan_in, 1/√fan_in)."""
    return nn.init.uniform_(t, -(fan_in**-0.5), fan_in**-0.5)


def leading_directions(weights: Iterable[Float[Tensor, "_ d"]], count: int) -> Float[Tensor, "d k"]:
    """The ``count`` (at most d) leading right singular vectors of the vertically stacked weights."""
    gram = None
    for w in weights:
        w = w.detach().to("cpu", torch.float64)
        gram = w.T @ w if gram is None else gram.addmm_(w.T, w)
    if gram is None:
        raise ValueError("leading_directions: no weights")
    return torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :count]
