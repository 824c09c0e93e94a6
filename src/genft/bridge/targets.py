"""From patterns to places: which weights, row slices, biases and blocks of a model a configuration means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.error import NoMatchingPeftModuleError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from genft.api.method import Site
from genft.errors import TargetError, nearest

# transformers renamed these between its releases 5.0 and 5.20; whichever a model has will match
VIT = ["query", "value", "q_proj", "v_proj"]

#: Query and value by model family: peft's own table for LoRA, and families that it lacks.
DEFAULT_TARGETS: dict[str, Any] = {
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "albert": ["query", "value"],
    "beit": VIT,
    "clip": ["q_proj", "v_proj"],
    "clip_vision_model": ["q_proj", "v_proj"],
    "data2vec-text": ["query", "value"],
    "deit": VIT,
    "dinov2": VIT,
    "dinov3_vit": ["q_proj", "v_proj"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv"],
    "mpnet": ["q", "v"],
    "phi3": ["qkv_proj"],
    "siglip": ["q_proj", "v_proj"],
    "siglip_vision_model": ["q_proj", "v_proj"],
    "timm_wrapper": ["qkv"],
    "vit": VIT,
    "vit_mae": VIT,
}

#: Families whose default target is a fused weight with q, k and v as consecutive rows: adapt q and v alone.
DEFAULT_SLICES: dict[str, dict[str, list[str]]] = {
    "gpt2": {"c_attn": ["q", "v"]},
    "modernbert": {"Wqkv": ["q", "v"]},
    "mpt": {"Wqkv": ["q", "v"]},
    "phi3": {"qkv_proj": ["q", "v"]},
    "timm_wrapper": {"qkv": ["q", "v"]},
}

#: Fused weights whose rows interleave q, k and v head by head: no row slice of them is "the query".
INTERLEAVED = {
    "bloom": "query_key_value",
    "codegen": "qkv_proj",
    "deberta": "in_proj",
    "falcon": "query_key_value",
    "gpt_bigcode": "c_attn",
    "gpt_neox": "query_key_value",
}


#: Which weights of a transformer block a method adapts where the user names none: query and value, all of attention
#: (its output too), or every linear weight.
SCOPES = ("qv", "attention", "block")


class NoTargetError(TargetError, NoMatchingPeftModuleError):
    """Nothing in the model matches (also peft's own error for it, so that peft's callers can catch it)."""


@dataclass(frozen=True)
class WeightKind:
    """How a module stores a linear weight: the attributes of weight and bias, and whether W is stored as (i, o)."""

    weight: str
    bias: str
    transposed: bool = False


def weight_kind(module: nn.Module) -> WeightKind | None:
    """The linear weight of ``module``, or None where it has none of its own."""
    if isinstance(module, nn.MultiheadAttention):
        return WeightKind("in_proj_weight", "in_proj_bias") if module.in_proj_weight is not None else None
    if isinstance(module, Conv1D):
        return WeightKind("weight", "bias", transposed=True)
    if isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features")):
        return WeightKind("weight", "bias")
    return None


def computes_plainly(module: nn.Module) -> bool:
    """Whether the module's forward pass is x Wᵀ + b and nothing else, so that it may be computed in its place.

    Not so for look-alikes with ``in_features`` (a subclass with a forward of its own), and where something is
    attached to the module (hooks; accelerate replaces ``forward`` to move weights).
    """
    plain = type(module).forward in (nn.Linear.forward, Conv1D.forward) and "forward" not in module.__dict__
    return plain and not (module._forward_hooks or module._forward_pre_hooks)


def weight_shape(module: nn.Module) -> tuple[int, int]:
    """(o, i) of a module for which :func:`weight_kind` is not None; right for packed (quantised) storage too."""
    if isinstance(module, nn.MultiheadAttention):
        return 3 * module.embed_dim, module.embed_dim
    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    return cast(int, module.out_features), cast(int, module.in_features)


def features(module: nn.Module) -> tuple[int, int]:
    """(o, i) of any module that can be adapted; i is 0 where it has a bias but no linear weight."""
    return weight_shape(module) if weight_kind(module) is not None else (cast(Tensor, module.bias).numel(), 0)


def unwrap(module: nn.Module) -> nn.Module:
    """The module itself, or the pretrained one inside when it is adapted already."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def has_own_bias(module: nn.Module) -> bool:
    """Whether ``module`` adds a bias over its output channels (a linear layer, a normalisation, a convolution)."""
    return read_bias(module, weight_kind(module)) is not None


def modules_with_bias(model: nn.Module) -> list[str]:
    """Paths of all modules whose bias can be adapted. The output projection inside an nn.MultiheadAttention cannot:
    the attention reads it directly."""
    found = []
    for name, module in model.named_modules():
        parent = unwrap(model.get_submodule(name.rpartition(".")[0]))
        if name and has_own_bias(unwrap(module)) and not isinstance(parent, nn.MultiheadAttention):
            found.append(name)
    return found


def linear_names(model: nn.Module) -> list[str]:
    """Paths of all linear weights of ``model``, for error messages."""
    return [name for name, module in model.named_modules() if weight_kind(module) is not None]


def no_match(targets: Any, model: nn.Module) -> NoTargetError:
    """The error for target names of which none is in the model, with the nearest leaf name that is."""
    names = [targets] if isinstance(targets, str) else sorted(targets)
    leaves = sorted({name.rpartition(".")[2] for name in linear_names(model)})
    close = [f"{c!r}" for name in names if (c := nearest(name.rpartition(".")[2], leaves))]
    listed = " or ".join(repr(name) for name in names)
    ending = f"nearest: {', '.join(close)}" if close else f"it has: {', '.join(leaves)}"
    return NoTargetError(f"target_modules: no linear weight matches {listed} in {_name(model)}; {ending}")


def default_targets(model: nn.Module, family: str, scope: str) -> tuple[list[str] | str, dict[str, Any] | None]:
    """(target_modules, target_slices) where the user names no targets.

    Args:
        model: the base model.
        family: its ``config.model_type``.
        scope: a member of :data:`SCOPES`. "block" is every linear weight inside the model's repeated layers,
            "attention" those of them that belong to attention; where a family's fused weight is made of q, k and v,
            each is a slice of its own.

    Raises:
        TargetError: nothing is known, or found, for this model.
    """
    inside: list[str] = []
    if scope != "qv":
        inside = sorted({name for name in _names_in_layers(model) if scope == "block" or "att" in name.lower()})
    if scope == "attention" and not inside and family in DEFAULT_TARGETS:
        scope = "qv"  # a family whose attention has another name (Nemotron-H's mixers)
    if scope != "qv":
        slices = {weight: ["q", "k", "v"] for weight in DEFAULT_SLICES.get(family, {})}
        if not inside:
            kind = "weight of attention" if scope == "attention" else "linear weight"
            raise TargetError(
                f"target_modules: no {kind} is inside a list of layers of {_name(model)}; "
                "name the weights to adapt, for example target_modules='all-linear'"
            )
        return inside, {k: v for k, v in slices.items() if any(_ends_with(name, k) for name in inside)} or None
    if family not in DEFAULT_TARGETS:
        raise TargetError(
            f"target_modules: no default is known for model family {family!r} ({_name(model)}); "
            "name the weights to adapt, for example target_modules=['q_proj', 'v_proj'] or 'all-linear'"
        )
    targets = DEFAULT_TARGETS[family]
    if not isinstance(targets, str):
        targets = [t for t in targets if t not in unmatched(targets, model)] or list(targets)
    return targets, DEFAULT_SLICES.get(family)


def unmatched(targets: Iterable[str], model: nn.Module) -> list[str]:
    """The entries of a list of target names that name no module of ``model``."""
    paths = [path for path, _ in model.named_modules()]
    return [target for target in targets if not any(_ends_with(path, target) for path in paths)]


def _names_in_layers(model: nn.Module) -> Iterable[str]:
    """The linear weights inside numbered layers, by what follows the last number: "attention.self.query"."""
    for path in linear_names(model):
        numbered = re.search(r".*\.\d+\.(.+)", path)
        if numbered and not isinstance(unwrap(model.get_submodule(path.rpartition(".")[0])), nn.MultiheadAttention):
            yield numbered[1]


def resolve_sites(
    model: nn.Module, matched: Iterable[str], slices: dict[str, Any] | None, *, bias_only: bool = False
) -> dict[str, list[Site]]:
    """The sites of every matched module, in the order of the model.

    Args:
        model: the base model (modules may be wrapped by other adapters already).
        matched: module paths that the configuration's patterns match.
        slices: ``target_slices`` of the configuration.
        bias_only: the method changes biases only, so any module with a bias will do.

    Raises:
        TargetError: a matched module has no weight that can be adapted, or a slice does not fit.
    """
    sites: dict[str, list[Site]] = {}
    problems: list[str] = []
    index = 0
    for path in matched:
        module = unwrap(model.get_submodule(path))
        if (problem := _refusal(path, module, model, bias_only)) is not None:
            problems.append(problem)
            continue
        kind = weight_kind(module)
        o, i = features(module)
        has_bias = getattr(module, kind.bias if kind else "bias", None) is not None
        try:
            ranges = _row_ranges(path, module, model, slices, o, i)
        except TargetError as error:
            problems += error.problems
            continue
        sites[path] = []
        for name, (start, stop) in ranges.items():
            sites[path].append(Site(path, stop - start, i, name, start, has_bias, index))
            index += 1
    unused = [key for key in slices or {} if not any(_ends_with(path, key) for path in sites)]
    if unused and not problems:
        leaves = sorted({path.rpartition(".")[2] for path in linear_names(model)})
        for key in unused:
            close = nearest(key, leaves)
            problems.append(
                f"target_slices: no adapted weight is named {key!r} in {_name(model)}"
                + (f"; nearest: {close!r}" if close else "")
            )
    if problems:
        raise TargetError(problems[:8] + ([f"… and {len(problems) - 8} more"] if len(problems) > 8 else []))
    return sites


def _refusal(path: str, module: nn.Module, model: nn.Module, bias_only: bool) -> str | None:
    """Why ``module`` cannot be adapted, or None."""
    parent = model.get_submodule(path.rpartition(".")[0]) if "." in path else model
    if isinstance(unwrap(parent), nn.MultiheadAttention):
        return (
            f"target_modules: {path} is read directly by nn.MultiheadAttention and would be bypassed; "
            f"target {path.rpartition('.')[0]!r} (its in_proj_weight) instead"
        )
    if bias_only and has_own_bias(module):
        return None
    if weight_kind(module) is not None:
        return None
    inside = [name for name, m in module.named_modules() if name and weight_kind(m) is not None]
    leaf = path.rpartition(".")[2]
    hint = f"; nearest: {leaf + '.' + inside[0]!r}" if inside else ""
    return f"target_modules: {path} is a {type(module).__name__}, not a linear weight{hint}"


def _row_ranges(
    path: str, module: nn.Module, model: nn.Module, slices: dict[str, Any] | None, o: int, i: int
) -> dict[str | None, tuple[int, int]]:
    """Slice name → (start, stop); {None: whole} where no slice is asked for."""
    wanted = next((value for key, value in (slices or {}).items() if _ends_with(path, key)), None)
    if wanted is None:
        return {None: (0, o)}
    if not isinstance(wanted, dict):
        layout = fused_layout(path, module, model, o, i)
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


def fused_layout(path: str, module: nn.Module, model: nn.Module, o: int, i: int) -> dict[str, tuple[int, int]]:
    """Rows of q, k and v in a fused weight, from the model's head counts.

    Raises:
        TargetError: the rows interleave q, k and v, or their sizes cannot be known.
    """
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    family = getattr(config, "model_type", None)
    leaf = path.rpartition(".")[2]
    if INTERLEAVED.get(str(family)) == leaf:
        raise TargetError(
            f"target_slices: {path} interleaves q, k and v head by head in {_name(model)}; "
            "no row slice is one of them, so adapt the whole weight"
        )
    heads = getattr(text_config, "num_attention_heads", None)
    kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
    if heads and kv_heads and not isinstance(module, nn.MultiheadAttention):
        head_dim = getattr(text_config, "head_dim", None) or o // (heads + 2 * kv_heads)
        q, kv = heads * head_dim, kv_heads * head_dim
        if q + 2 * kv == o:
            return {"q": (0, q), "k": (q, q + kv), "v": (q + kv, o)}
    if o == 3 * i:
        return {"q": (0, i), "k": (i, 2 * i), "v": (2 * i, o)}
    raise TargetError(
        f"target_slices: the rows of q, k and v in {path} ({o}, {i}) cannot be told from {_name(model)}'s "
        "configuration; give them: {'" + leaf + "': {'q': [start, stop], …}}"
    )


def _ends_with(path: str, key: str) -> bool:
    return path == key or path.endswith(f".{key}")


def _name(model: nn.Module) -> str:
    return type(model).__name__


def read_weight(module: nn.Module, kind: WeightKind) -> Tensor:
    """The stored weight of an unquantised module as (o, i), without a copy."""
    weight: Tensor = getattr(module, kind.weight).data
    return weight.T if kind.transposed else weight


def read_bias(module: nn.Module, kind: WeightKind | None) -> Tensor | None:
    bias = getattr(module, kind.bias if kind else "bias", None)
    return bias.data if isinstance(bias, Tensor) else None


def is_meta(module: nn.Module) -> bool:
    return any(p.device == torch.device("meta") for p in module.parameters(recurse=False))
