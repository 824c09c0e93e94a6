"""Add the updates of sites to the right rows of a weight or columns of an output."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genft.api.method import Site


def call_with(module: nn.Module, tensors: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Call ``module`` with ``tensors`` in place of its own; the module itself is not changed.

    A shallow copy does what ``torch.func.functional_call`` does, but also works if FSDP has turned the parameters into
    plain attributes, which would hide the replacements.
    """
    if torch.compiler.is_compiling():
        return torch.func.functional_call(module, tensors, args, kwargs)
    stand_in = copy.copy(module)
    stand_in.__dict__.update(tensors)  # found before the registered parameters
    return stand_in(*args, **kwargs)


def place_rows(pieces: list[tuple[Site, Tensor]], rows: int) -> Tensor:
    """One tensor of ``rows`` rows with each piece at its site's rows and zeros elsewhere."""
    if len(pieces) == 1 and pieces[0][1].shape[0] == rows:
        return pieces[0][1]
    return torch.cat(fill_gaps(pieces, rows, lambda n, like: like.new_zeros((n, *like.shape[1:]))), dim=0)


def fill_gaps(pieces: list[tuple[Site, Tensor]], rows: int, gap: Any) -> list[Tensor]:
    """The pieces in row order, with ``gap(n, piece)`` for every run of n rows that no piece covers."""
    parts: list[Tensor] = []
    position = 0
    for site, piece in sorted(pieces, key=lambda p: p[0].start):
        if site.start > position:
            parts.append(gap(site.start - position, piece))
        parts.append(piece)
        position = site.stop
    if position < rows:
        parts.append(gap(rows - position, pieces[0][1]))
    return parts


def add_rows(w0: Tensor, updates: list[tuple[Site, Tensor]]) -> Tensor:
    """W0 with every update added at its rows; updates of several adapters may overlap."""
    by_rows: dict[tuple[int, int], Tensor] = {}
    for site, update in updates:
        key = (site.start, site.stop)
        by_rows[key] = by_rows[key] + update if key in by_rows else update
    if len(by_rows) == 1 and (0, w0.shape[0]) in by_rows:
        return w0 + next(iter(by_rows.values()))
    if _overlap(by_rows):
        for (start, stop), update in by_rows.items():
            w0 = torch.cat([w0[:start], w0[start:stop] + update, w0[stop:]])
        return w0
    parts, position = [], 0
    for (start, stop), update in sorted(by_rows.items(), key=lambda item: item[0]):
        parts += [w0[position:start], w0[start:stop] + update]
        position = stop
    return torch.cat([*parts, w0[position:]])


def add_columns(y: Tensor, updates: list[tuple[Site, Tensor]]) -> Tensor:
    """y (..., o) with every update (..., rows of the site) added at its columns."""
    for site, update in updates:
        update = update.to(y.dtype)
        if update.shape[-1] == y.shape[-1]:
            y = y + update
        else:
            y = torch.cat([y[..., : site.start], y[..., site.start : site.stop] + update, y[..., site.stop :]], dim=-1)
    return y


def channel_view(bias: Tensor, module: nn.Module, y: Tensor) -> Tensor:
    """A bias reshaped to be added to the module's output: the channel dimension is the second of a convolution, the
    last otherwise."""
    convolution = isinstance(module, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm))
    return bias.view(-1, *(1,) * (y.dim() - 2)) if convolution and y.dim() > 2 else bias


def _overlap(rows: Mapping[tuple[int, int], Any]) -> bool:
    ordered = sorted(rows)
    return any(a[1] > b[0] for a, b in itertools.pairwise(ordered))
