"""Sketches of a weight, Ωₒᵀ W Ωᵢ (8 × 8), with fixed ±1 matrices Ω: linear in W, and the same on every machine."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

SIZE = 8


@functools.lru_cache(maxsize=64)
def signs(n: int, side: int) -> Float[Tensor, "n 8"]:
    """Ω (n, 8) of ±1 from a counter (splitmix64 of row, column and side): the same on every machine, forever. Kept,
    so nobody may write to it.

    Args:
        n: rows.
        side: 0 for the rows of W (Ωₒ), 1 for its columns (Ωᵢ).
    """
    rows = torch.arange(n, dtype=torch.int64)[:, None]
    columns = torch.arange(SIZE, dtype=torch.int64)[None, :]
    z = (rows * SIZE + columns) * 2 + side + 1
    # splitmix64 with its constants written as signed integers: torch has no arithmetic on uint64
    z = z * -7046029254386353131
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    z = z ^ ((z >> 31) & 0x1FFFFFFFF)
    return (1 - 2 * (z & 1)).to(torch.float32)


def sketch(weight: Float[Tensor, "o i"]) -> Float[Tensor, "8 8"]:
    """Ωₒᵀ W Ωᵢ (8, 8) of W (o, i), in float32 or better, on the weight's device."""
    w = weight.detach()
    w = w.to(torch.promote_types(w.dtype, torch.float32))
    left, right = (signs(n, side).to(w) for side, n in enumerate(w.shape))
    return ((right.T @ w.T) @ left).T  # the eight columns first: twice as fast


def distance(expected: Float[Tensor, "8 8"], other: Float[Tensor, "8 8"]) -> float:
    """Relative Frobenius distance of two sketches."""
    return float((expected - other).norm() / expected.norm().clamp_min(1e-12))
