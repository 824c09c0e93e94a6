"""From patterns to sites: find the weights, row slices, biases and blocks that a configuration targets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from peft.utils.error import NoMatchingPeftModuleError
from torch import nn

from genft.api.method import BlockSite, Site
from genft.errors import TargetError, nearest
from genft.models.architectures import (
    about_experts,
    ends_with,
    expert_weights,
    fused_layout,
    linear_names,
    name_of,
)
from genft.models.blocks import (
    anatomy_of,
    attention_end_of,
    attention_of,
    head_width_of,
    norms_of,
    projections_of,
    stream_width,
    takes_images,
    takes_score_offsets,
)
from genft.models.weights import FrozenWeight, has_channel_weight, has_linear_weight, has_own_bias, unwrap


class NoTargetError(TargetError, NoMatchingPeftModuleError):
    """Nothing in the model matches. It is also peft's own error for this case, so that callers of peft can catch it."""


def no_match(targets: Any, model: nn.Module) -> NoTargetError:
    """The error for target names that match nothing in the model; it suggests the nearest leaf names."""
    names = [targets] if isinstance(targets, str) else sorted(targets)
    if experts := [path for path in expert_weights(model) if any(ends_with(path, name) for name in names)]:
        return NoTargetError(about_experts(model, experts))
    leaves = _leaf_names(model)
    close = [f"{c!r}" for name in names if (c := nearest(name.rpartition(".")[2], leaves))]
    listed = " or ".join(repr(name) for name in names)
    ending = f"nearest: {', '.join(close)}" if close else f"it has: {', '.join(leaves)}"
    return NoTargetError(f"target_modules: no linear weight matches {listed} in {name_of(model)}; {ending}")


def _leaf_names(model: nn.Module) -> list[str]:
    return sorted({path.rpartition(".")[2] for path in linear_names(model)})


def _shortened(problems: list[str], most: int) -> list[str]:
    return problems[:most] + ([f"… and {len(problems) - most} more"] if len(problems) > most else [])


# -------------------------------------------------------------------- weights


def weight_sites(
    model: nn.Module,
    matched: Iterable[str],
    slices: Mapping[str, Any] | None,
    *,
    bias_only: bool = False,
    beyond_linear: bool = False,
) -> dict[str, list[Site]]:
    """The sites of every matched module, in the order of the model.

    Args:
        model: the base model (modules may be wrapped by other adapters already).
        matched: paths of the modules that match the configuration's patterns.
        slices: ``target_slices`` of the configuration.
        bias_only: whether the method changes only biases, so that any module with a bias is allowed.
        beyond_linear: whether the method also adapts normalisations and convolutions.

    Raises:
        TargetError: a matched module has no weight that can be adapted, or a slice does not fit.
    """
    sites: dict[str, list[Site]] = {}
    problems: list[str] = []
    index = 0
    for path in matched:
        module = unwrap(model.get_submodule(path))
        other = (bias_only and has_own_bias(module)) or (beyond_linear and has_channel_weight(module))
        if (problem := _weight_refusal(path, module, model, other)) is not None:
            problems.append(problem)
            continue
        w0 = FrozenWeight.of(module)
        try:
            ranges = _row_ranges(path, w0, model, slices)
        except TargetError as error:
            problems += error.problems
            continue
        sites[path] = []
        for name, (start, stop) in ranges.items():
            sites[path].append(Site(path, stop - start, w0.in_features, name, start, w0.has_bias, index))
            index += 1
    if not problems:
        problems = _unused_slices(model, sites, slices)
    if problems:
        raise TargetError(_shortened(problems, 8))
    return sites


def _weight_refusal(path: str, module: nn.Module, model: nn.Module, other: bool) -> str | None:
    """Why ``module`` cannot be adapted, or None; ``other``: the method can adapt it without a linear weight."""
    parent = model.get_submodule(path.rpartition(".")[0]) if "." in path else model
    if isinstance(unwrap(parent), nn.MultiheadAttention):
        return (
            f"target_modules: {path} is read directly by nn.MultiheadAttention and would be bypassed; "
            f"target {path.rpartition('.')[0]!r} (its in_proj_weight) instead"
        )
    if other or has_linear_weight(module):
        return None
    if experts := [name for name in expert_weights(model) if name.startswith(f"{path}.")]:
        return about_experts(model, experts)
    inside = [name for name, m in module.named_modules() if name and has_linear_weight(m)]
    leaf = path.rpartition(".")[2]
    hint = f"; nearest: {leaf + '.' + inside[0]!r}" if inside else ""
    return f"target_modules: {path} is a {type(module).__name__}, not a linear weight{hint}"


def _unused_slices(model: nn.Module, sites: Collection[str], slices: Mapping[str, Any] | None) -> list[str]:
    """One sentence for every key of ``target_slices`` that names no adapted weight."""
    problems = []
    for key in slices or {}:
        if not any(ends_with(path, key) for path in sites):
            close = nearest(key, _leaf_names(model))
            problems.append(
                f"target_slices: no adapted weight is named {key!r} in {name_of(model)}"
                + (f"; nearest: {close!r}" if close else "")
            )
    return problems


def _row_ranges(
    path: str, w0: FrozenWeight, model: nn.Module, slices: Mapping[str, Any] | None
) -> dict[str | None, tuple[int, int]]:
    """Slice name → (start, stop); {None: all rows} if no slice is requested."""
    o = w0.out_features
    wanted = next((value for key, value in (slices or {}).items() if ends_with(path, key)), None)
    if wanted is None:
        return {None: (0, o)}
    if not isinstance(wanted, dict):
        layout = fused_layout(path, w0.module, model, o, w0.in_features)
        if unknown := [name for name in wanted if name not in layout]:
            raise TargetError(
                f"target_slices: {path} has no slice {unknown[0]!r}; allowed: {', '.join(layout)}, "
                "or explicit rows {'name': [start, stop]}"
            )
        wanted = {name: layout[name] for name in wanted}
    ranges: dict[str | None, tuple[int, int]] = {}
    taken: list[tuple[int, int, str]] = []
    for name, (start, stop) in wanted.items():
        if not 0 <= start < stop <= o:
            raise TargetError(f"target_slices: {path} has {o} rows; received [{start}, {stop}] for {name!r}")
        for other_start, other_stop, other in taken:
            if start < other_stop and other_start < stop:
                raise TargetError(f"target_slices: {path}: the rows of {name!r} and {other!r} overlap")
        taken.append((start, stop, name))
        ranges[name] = (start, stop)
    return ranges


# -------------------------------------------------------------------- blocks


def block_sites(model: nn.Module, matched: Iterable[str], hooks: Collection[str]) -> dict[str, list[Site]]:
    """One site per matched block, with the width of its residual stream.

    Args:
        model: the base model.
        matched: paths of blocks in it.
        hooks: names of the hooks of :class:`~genft.api.method.BlockMethod` that the blocks must support.

    Raises:
        TargetError: a matched module is not a transformer block, or does not support these hooks.
    """
    paths = list(matched)
    sites: dict[str, list[Site]] = {}
    problems = []
    for index, path in enumerate(paths):
        block = unwrap(model.get_submodule(path))
        if (problem := _block_refusal(model, path, block, hooks)) is not None:
            problems.append(problem)
            continue
        width = stream_width(block)
        first, last = index == 0, index == len(paths) - 1
        norms, head = norms_of(block), head_width_of(block)
        sites[path] = [BlockSite(path, width, width, index=index, norms=norms, first=first, last=last, head_width=head)]
    if problems:
        raise TargetError(_shortened(problems, 4))
    return sites


def _block_refusal(model: nn.Module, path: str, block: nn.Module, hooks: Collection[str]) -> str | None:
    """Why a method with these hooks cannot work in ``block``, or None."""
    where = f"target_modules: {path} ({type(block).__name__} of {name_of(model)})"
    if anatomy_of(block) is None:
        return f"target_modules: {path} is a {type(block).__name__}, not a transformer block"
    if "after_attention" in hooks and attention_end_of(block) is None:
        return f"{where} has no attention whose output could be adapted"
    if "norm_offset" in hooks and not norms_of(block):
        return f"{where} has no LayerNorm with weight and bias to train; set layer_norms='none'"
    if "merge" in hooks and not takes_images(model):
        return f"{where}: this method merges patches of images; it does not work on text"
    if ("merge" in hooks or "beside_projection" in hooks) and projections_of(block) is None:
        return (
            f"{where} has no attention whose queries and keys this method knows; use a ViT, a DINOv2 or timm's "
            "VisionTransformer"
        )
    if "merge" in hooks and not takes_score_offsets(block):
        return (
            f"{where} takes no offsets of its attention's scores; use attn_implementation='sdpa' or 'eager', and "
            "for DINOv2 a recent version of transformers"
        )
    if ("prompts" in hooks or "second_stream" in hooks) and not takes_images(model):
        return f"{where}: prompts of this method are for images; for text, use prompt_tuning or prefix_tuning"
    if "second_stream" in hooks and projections_of(block) is None:
        return f"{where} has no attention whose queries and keys could come from two streams; use a ViT or a DINOv2"
    if "prompts" in hooks and attention_of(block) is None:
        return (
            f"{where} cannot take prompts, because its attention depends on positions; use a vision transformer "
            "that adds positions before the first block (ViT, DINOv2, timm's VisionTransformer)"
        )
    if "prefix" in hooks and attention_of(block) is None:
        return (
            f"{where} cannot take a prefix, because it is a decoder's or its attention depends on positions; use "
            "BERT, RoBERTa, ViT, DINOv2 or timm's VisionTransformer"
        )
    return None
