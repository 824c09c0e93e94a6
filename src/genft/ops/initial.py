"""Initialisations of trained factors; each fills a tensor in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def orthonormal_(t: Tensor, *, gain: float = 1.0) -> Tensor:
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


def linear_(t: Tensor) -> Tensor:
    """nn.Linear's own for its weight (o, i): U(-1/√i, 1/√i)."""
    return nn.init.kaiming_uniform_(t, a=5**0.5)


def linear_bias_(t: Tensor, fan_in: int) -> Tensor:
    """nn.Linear's own for the bias of a weight with ``fan_in`` columns: U(-1/√fan_in, 1/√fan_in)."""
    return nn.init.uniform_(t, -(fan_in**-0.5), fan_in**-0.5)
