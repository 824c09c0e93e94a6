"""Merging the tokens of a block between its attention and its MLP, from inside the block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from genft.bridge.adapter import Carried
from genft.bridge.block import tokens
from genft.models.blocks import Projections, heads_of


class Merger(NamedTuple):
    """An adapter that merges tokens in a block.

    Attributes:
        merge: (stream (batch, tokens, width), keys (batch, heads, tokens, width of a head)) → the merged stream, and
            the number of tokens that each of its tokens stands for (batch, fewer).
        carried: where these numbers are kept for the blocks that follow.
    """

    merge: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    carried: Carried


class _Call(threading.local):
    """Values that one hook passes to a later one in the same call of the block; separate for every thread.

    Attributes:
        keys: the attention's keys (batch, tokens, width).
        removed: by how many tokens the stream was shortened.
    """

    keys: Tensor | None = None
    removed: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a copy of the block is not being called


class TokenMerge:
    """The hooks that merge the tokens of one block, if an active adapter does so.

    The block adds its MLP's output to the stream that it keeps itself. So the merged tokens are written over the first
    tokens of that stream, the MLP's output is filled up to its length, and the rest is dropped after the block.

    Args:
        block: the block.
        merger: returns the adapter that merges tokens in it at present, or None.
    """

    def __init__(self, block: nn.Module, merger: Callable[[], Merger | None]) -> None:
        self._heads, self._merger, self._call = heads_of(block), merger, _Call()

    def read_keys(self, parts: str, module: nn.Module, args: Any, output: Tensor) -> None:
        """After the projection that computes the keys, and perhaps more: ``parts`` is "k" or "qkv"."""
        if self._merger() is not None:
            self._call.keys = output.chunk(len(parts), dim=-1)[parts.index("k")]

    def merge(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Before the module that reads the stream between attention and MLP."""
        merger, keys, self._call.keys = self._merger(), self._call.keys, None
        if merger is None or keys is None:
            return None
        stream = args[0]
        merged, sizes = merger.merge(stream.clone(), keys.unflatten(-1, (self._heads, -1)).transpose(1, 2))
        merged, merger.carried.sizes = merged.to(stream.dtype), sizes
        self._call.removed = stream.shape[1] - merged.shape[1]
        stream[:, : merged.shape[1]] = merged
        return merged, *args[1:]

    def fill_up(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """After the MLP."""
        removed, self._call.removed = self._call.removed, 0
        return F.pad(output, (0, 0, 0, removed)) if removed else output

    def shortened(self, output: Any) -> Any:
        """The block's output without the tokens that are no longer there."""
        merger = self._merger()
        if merger is None or merger.carried.sizes is None:
            return output
        left = merger.carried.sizes.shape[1]
        return tokens.shortened(output, tokens.first_of(output).shape[1] - left, at=left)


def parts_of(projections: Projections) -> dict[str, str]:
    """Which of queries, keys and values each of the projections computes: path → parts."""
    paths = projections.inputs
    return {paths[0]: "qkv"} if len(paths) == 1 else dict(zip(paths, "qkv", strict=True))
