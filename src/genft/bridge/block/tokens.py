"""Additional tokens for a module that processes a list of tokens: lengthen its input and mask, shorten its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genft.errors import ConfigError
from genft.models.blocks import MASKS


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...]) -> Tensor:
    """The input (batch, tokens, width) of a module: the first of its arguments, whose names are ``names``."""
    return args[0] if args else kwargs[names[0]]


def exchanged(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], new: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module with ``new`` in place of its input (batch, tokens, width)."""
    return _with(args, kwargs, names, {names[0]: new})


def first_of(output: Any) -> Tensor:
    """A module's output, or the first of several."""
    return output[0] if isinstance(output, tuple) else output


def lengthened(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], new: Tensor, *, at: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module with ``new`` tokens inserted before position ``at`` of its input.

    Args:
        args: positional arguments; the input (batch, tokens, width) is the first one, or named ``names[0]``.
        kwargs: keyword arguments.
        names: names of the module's parameters in order.
        new: the tokens, (tokens, width) for the whole batch, or (batch, tokens, width).
        at: the position of the first new token.
    """
    # cut to one length by hand: torch 2.9 cannot trace zip() over two lengths
    values = dict(zip(names[: len(args)], args[: len(names)], strict=True)) | kwargs
    x = values[names[0]]
    shown = new.to(x.dtype).expand(x.shape[0], -1, -1)
    args, kwargs = unmasked(args, kwargs, names, new.shape[-2], at=at)
    return _with(args, kwargs, names, {names[0]: torch.cat([x[:, :at], shown, x[:, at:]], dim=1)})


def unmasked(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], extra: int, *, at: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module with masks for ``extra`` more tokens from position ``at`` on, which all may see."""
    values = dict(zip(names[: len(args)], args[: len(names)], strict=True)) | kwargs
    changed = {
        name: _unmasked(values[name], extra, at, square=name == "attn_mask")
        for name in MASKS
        if extra and isinstance(values.get(name), Tensor)
    }
    return _with(args, kwargs, names, changed)


def weighted(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], sizes: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module whose attention sees each token as often as its size says, (batch, tokens).

    The mask is passed by position where it can be: reentrant checkpoints give gradients to such arguments only.

    Raises:
        ConfigError: the module is called with a mask of its own, which is for other tokens.
    """
    x, name = input_of(args, kwargs, names), next(name for name in names if name in MASKS)
    at = names.index(name)
    own = args[at] if len(args) > at else kwargs.get(name)
    if isinstance(own, Tensor) and _hides(own):
        raise ConfigError(f"{name}: received a mask that hides tokens; a model whose tokens are merged takes none")
    mask = sizes.log().to(x.device, x.dtype)[:, None, None]
    if len(args) < at:
        return args, {**kwargs, name: mask}
    return (*args[:at], mask, *args[at + 1 :]), {key: value for key, value in kwargs.items() if key != name}


def _hides(mask: Tensor) -> bool:
    """Whether a mask hides tokens; transformers passes one that hides nothing to a model that is being exported."""
    if torch.compiler.is_compiling():
        return False
    return bool((mask != 0).any()) if mask.is_floating_point() else not mask.bool().all()


def _with(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...], changed: dict[str, Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module with some of them exchanged, by their names."""
    named = list(zip(names[: len(args)], args[: len(names)], strict=True))
    positional = tuple(changed.get(name, value) for name, value in named)
    return (*positional, *args[len(names) :]), {name: changed.get(name, value) for name, value in kwargs.items()}


def _unmasked(mask: Tensor, extra: int, at: int, *, square: bool) -> Tensor:
    """A mask over keys, or over queries and keys, with ``extra`` more tokens that are visible to all.

    Args:
        mask: (batch, keys) with 1 or True for visible tokens, or (…, queries or 1, keys); floating-point masks are
            added to the scores.
        extra: the number of added tokens.
        at: the position of the first one.
        square: whether a two-dimensional mask is (queries, keys).
    """
    seen = 0 if mask.is_floating_point() else 1
    dims = [-1]
    if (mask.dim() > 2 or square) and mask.shape[-2] > 1:
        dims.append(-2)
    for dim in dims:
        before, after = mask.tensor_split([at], dim=dim)
        shape = list(mask.shape)
        shape[dim] = extra
        mask = torch.cat([before, mask.new_full(shape, seen), after], dim=dim)
    return mask


def added(output: Any, new: Tensor) -> Any:
    """A module's output, or the first of several, plus ``new``."""
    if isinstance(output, tuple):
        return added(output[0], new), *output[1:]
    return output + new.to(output.dtype)


def shortened(output: Any, extra: int, *, at: int) -> Any:
    """A module's output (batch, tokens, width), or the first of several, without the ``extra`` tokens starting at
    ``at``."""
    if not extra:
        return output
    if isinstance(output, tuple):
        return shortened(output[0], extra, at=at), *output[1:]
    return torch.cat([output[:, :at], output[:, at + extra :]], dim=1) if at else output[:, extra:]


def added_to_parts(output: Tensor, new: list[Tensor | None]) -> Tensor:
    """An output (..., n · width) of n parts side by side, plus what is new (..., width) for each of them."""
    if all(part is None for part in new):
        return output
    parts = zip(output.chunk(len(new), dim=-1), new, strict=True)
    return joined([part if more is None else part + more.to(part.dtype) for part, more in parts], -1)


def replaced(x: Tensor, first: Tensor) -> Tensor:
    """x (batch, tokens, width) with its first tokens replaced by ``first`` (tokens, width) in every row."""
    return torch.cat([first.to(x.dtype).expand(x.shape[0], -1, -1), x[:, len(first) :]], dim=1)


def joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    """The parts concatenated along ``dim``; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
