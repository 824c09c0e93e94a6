"""What a block computes without adapters, in the precision of whoever asks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genft.api.method import FrozenBlock
from genft.models.blocks import heads_of, projections_of


def frozen_block(
    block: nn.Module,
    run: Callable[[Tensor], Tensor],
    positions: nn.Parameter | None,
    dtype: torch.dtype,
    *,
    read_after_last: bool,
) -> FrozenBlock:
    """The frozen computations of a vision transformer's block.

    Args:
        block: the block.
        run: the whole block.
        positions: the model's position embeddings (1, tokens, width).
        dtype: the precision in which the block computes.
        read_after_last: whether the second stream is also read after the last adapted block.
    """
    projections = projections_of(block)
    if projections is None:
        raise TypeError(f"{type(block).__name__} has no known projections")
    heads = heads_of(block)
    inputs = [block.get_submodule(path) for path in projections.inputs]

    def through(path: str, x: Tensor) -> Tensor:
        return block.get_submodule(path)(x.to(dtype)).to(x.dtype)

    def projected(x: Tensor) -> list[Tensor]:
        """Queries, keys and values (batch, heads, tokens, width of a head)."""
        parts = inputs[0](x).chunk(3, dim=-1) if len(inputs) == 1 else [module(x) for module in inputs]
        return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]

    def attention(queries: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        q, (_, k, v) = projected(queries.to(dtype))[0], projected(seen.to(dtype))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return through(projections.output, out).to(queries.dtype)

    return FrozenBlock(
        run=run,
        norm=lambda x: through(projections.norm, x),
        attention=attention,
        positions=None if positions is None else positions[0],
        read_after_last=read_after_last,
    )
