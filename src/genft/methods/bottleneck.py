"""The bottleneck that adapters share: Up(activation(Down x)), d → m → d."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.method import Factor, Init


def bottleneck_factors(d: int, m: int, down: Init, up: Init, *, biases: bool = True) -> dict[str, Factor]:
    """The factors of a bottleneck, 2·d·m + m + d numbers; both biases, if it has them, start at zero."""
    factors = {
        "down_weight": Factor((m, d), down),
        "down_bias": Factor((m,), nn.init.zeros_),
        "up_weight": Factor((d, m), up),
        "up_bias": Factor((d,), nn.init.zeros_),
    }
    return {name: factor for name, factor in factors.items() if biases or not name.endswith("bias")}


def bottleneck(
    x: Float[Tensor, "*t d"],
    f: Mapping[str, Tensor],
    activation: Callable[[Tensor], Tensor],
    dropout: float = 0.0,
    training: bool = False,
) -> Float[Tensor, "*t d"]:
    """Up(dropout(activation(Down x))), (..., d) → (..., d); dropout applies only in training."""
    hidden = activation(F.linear(x, f["down_weight"], f.get("down_bias")))
    return F.linear(F.dropout(hidden, dropout, training), f["up_weight"], f.get("up_bias"))


def zero_unless(moved: bool, width: int) -> Init:
    """Zeros, or N(0, 1/width) if the start should be away from the pretrained function (``moved``)."""
    return partial(nn.init.normal_, std=width**-0.5) if moved else nn.init.zeros_


def prefixed(prefix: str, factors: Mapping[str, Factor]) -> dict[str, Factor]:
    return {prefix + name: factor for name, factor in factors.items()}


def under(prefix: str, f: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors whose names start with ``prefix``, with the prefix removed."""
    return {name.removeprefix(prefix): value for name, value in f.items() if name.startswith(prefix)}
