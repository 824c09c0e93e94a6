"""What the literal transcriptions of block methods share: a transformer block step by step, and the comparison."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

F64 = torch.float64
Named = dict[str, Tensor]
HEADS, WIDTH = 4, 32


def layer_norm(x: Tensor, norm: nn.Module, dw: Tensor | float = 0.0, db: Tensor | float = 0.0) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * (norm.weight + dw) + norm.bias + db


def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x @ w.T + b


def attend(
    x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, seen: Tensor | None = None, extra: Any = None
) -> Tensor:
    """softmax(Q [P_k; K]ᵀ / √d_h) [P_v; V], head by head; ``seen`` (batch, tokens) says which tokens count."""
    queries, keys, values = (linear(x, m.weight, m.bias) for m in (q, k, v))
    if extra is not None:
        keys, values = (
            torch.cat([p.expand(len(x), -1, -1), t], dim=1) for p, t in zip(extra, (keys, values), strict=True)
        )
    out = []
    for h in range(HEADS):
        part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
        scores = queries[..., part] @ keys[..., part].transpose(1, 2) / (WIDTH / HEADS) ** 0.5
        if seen is not None:
            before = torch.ones(len(x), keys.shape[1] - seen.shape[1], dtype=torch.bool)
            scores = scores.masked_fill(~torch.cat([before, seen], 1)[:, None, :], float("-inf"))
        out.append(scores.softmax(-1) @ values[..., part])
    return torch.cat(out, -1)


def gelu(z: Tensor) -> Tensor:
    return z * 0.5 * (1 + torch.erf(z / 2**0.5))


def vit_layer(layer: Any, x: Tensor, extra: Any = None) -> Tensor:
    n = layer_norm(x, layer.layernorm_before)
    a = layer.attention
    x = x + linear(attend(n, a.q_proj, a.k_proj, a.v_proj, extra=extra), a.o_proj.weight, a.o_proj.bias)
    n = layer_norm(x, layer.layernorm_after)
    return x + linear(
        gelu(linear(n, layer.mlp.fc1.weight, layer.mlp.fc1.bias)), layer.mlp.fc2.weight, layer.mlp.fc2.bias
    )


def named(model: nn.Module) -> list[Named]:
    """Per block, its own factors and the shared ones under the names that formulas use."""
    layers = [m for m in model.modules() if hasattr(m, "own_factors")]
    return [layer.factors("default", layer.attachments["default"].sites[0]) for layer in layers]


def compare(model: nn.Module, got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)
    trained = [p for p in model.parameters() if p.requires_grad]
    weight = torch.randn_like(wanted)
    for mine, literal in zip(
        torch.autograd.grad((got * weight).sum(), trained),
        torch.autograd.grad((wanted * weight).sum(), trained),
        strict=True,
    ):
        assert literal.abs().max() > 0
        torch.testing.assert_close(mine, literal, rtol=1e-8, atol=1e-9)
