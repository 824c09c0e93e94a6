"""Model families: their default targets, fused weights and scopes, and the names of a model's linear weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from genft.errors import TargetError
from genft.models.weights import has_channel_weight, has_linear_weight, has_own_bias, unwrap

# transformers renamed these between releases 5.0 and 5.20; either name matches
VIT = ["query", "value", "q_proj", "v_proj"]

#: Decoders and encoder-decoders whose query and value are called q_proj and v_proj, beyond those in peft's table.
_Q_PROJ_V_PROJ = (
    "cohere", "cohere2", "exaone4", "gemma3", "gemma3n", "gemma3n_text", "gemma4_text", "glm", "glm4", "gpt_oss",
    "granite", "helium", "llama4_text", "ministral", "mistral3", "olmo", "olmo2", "olmo3", "phimoe", "qwen2_moe",
    "qwen3_moe", "smollm3", "starcoder2", "blenderbot", "blenderbot-small", "marian", "mbart", "pegasus",
)  # fmt: skip

#: Names of query and value by model family: peft's own table for LoRA, plus families that it lacks.
DEFAULT_TARGETS: dict[str, Any] = {
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    **{family: ["q_proj", "v_proj"] for family in _Q_PROJ_V_PROJ},
    "albert": ["query", "value"],
    "beit": VIT,
    "clip": ["q_proj", "v_proj"],
    "clip_vision_model": ["q_proj", "v_proj"],
    "data2vec-text": ["query", "value"],
    "deit": VIT,
    "dinov2": VIT,
    "dinov3_vit": ["q_proj", "v_proj"],
    "distilbert": ["q_lin", "v_lin"],
    "longt5": ["q", "v"],
    "modernbert": ["Wqkv"],
    "mpnet": ["q", "v"],
    "phi": ["q_proj", "v_proj"],  # peft's table has the MLP's weights too
    "phi3": ["qkv_proj"],
    "siglip": ["q_proj", "v_proj"],
    "siglip_vision_model": ["q_proj", "v_proj"],
    "switch_transformers": ["q", "v"],
    "timm_wrapper": ["qkv"],
    "umt5": ["q", "v"],
    "vit": VIT,
    "vit_mae": VIT,
}

#: Families whose default target is a fused weight with q, k and v as consecutive rows: only q and v are adapted.
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

#: The weights of a transformer block that a method adapts if the user names none: query and value, all of attention
#: (including its output), or every linear weight.
SCOPES = ("qv", "attention", "block")


def name_of(model: nn.Module) -> str:
    return type(model).__name__


def ends_with(path: str, key: str) -> bool:
    """Whether the last parts of a module path are ``key``: "layer.0.query" ends with "query", not with "uery"."""
    return path == key or path.endswith(f".{key}")


def linear_names(model: nn.Module) -> list[str]:
    """Paths of all linear weights of ``model``."""
    return [name for name, module in modules_of(model) if has_linear_weight(module)]


def expert_weights(model: nn.Module) -> list[str]:
    """Paths of the parameters that hold the weights of all experts of a layer (experts, ·, ·): no linear module."""
    named = model.named_parameters()
    return [path for path, parameter in named if parameter.dim() == 3 and "expert" in path.rpartition(".")[0]]


def about_experts(model: nn.Module, weights: Iterable[str]) -> str:
    """The sentence that refuses parameters of :func:`expert_weights`."""
    names = sorted({path.rpartition(".")[2] for path in weights})
    return (
        f"target_modules: {' and '.join(names)} of {name_of(model)} hold the weights of all experts of a layer in one "
        "3-D parameter, which cannot be adapted; adapt attention: scope='attention', or target_modules=['q_proj', "
        "'v_proj']"
    )


def modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by path, an adapted one as a whole: what an adapter has put inside it is left out."""
    inside: str | None = None
    for path, module in model.named_modules():
        if inside is None or not path.startswith(inside):
            inside = f"{path}." if isinstance(module, BaseTunerLayer) else None
            yield path, module


def modules_with_bias(model: nn.Module) -> list[str]:
    """Paths of all modules whose bias can be adapted. The bias of the output projection inside an
    nn.MultiheadAttention cannot, because the attention reads it directly."""
    paths = []
    for path, module in modules_of(model):
        parent = unwrap(model.get_submodule(path.rpartition(".")[0]))
        if path and has_own_bias(module) and not isinstance(parent, nn.MultiheadAttention):
            paths.append(path)
    return paths


def modules_with_channels(model: nn.Module) -> list[str]:
    """Paths of all normalisations and convolutions that have a weight."""
    return [path for path, module in model.named_modules() if path and has_channel_weight(module)]


def unmatched(targets: Iterable[str], model: nn.Module) -> list[str]:
    """The target names that match no module of ``model``."""
    paths = [path for path, _ in modules_of(model)]
    return [target for target in targets if not any(ends_with(path, target) for path in paths)]


def default_targets(model: nn.Module, family: str, scope: str) -> tuple[list[str] | str, dict[str, Any] | None]:
    """(target_modules, target_slices) for a configuration that names no targets.

    Args:
        model: the base model.
        family: its ``config.model_type``.
        scope: a member of :data:`SCOPES`. "block" means every linear weight inside the model's repeated layers,
            "attention" only those of attention; in a family that fuses q, k and v into one weight, each of the three
            is a separate slice.

    Raises:
        TargetError: no targets are known or can be found for this model.
    """
    inside: list[str] = []
    if scope == "block" and (experts := expert_weights(model)):
        raise TargetError(about_experts(model, experts))
    if scope != "qv":
        inside = sorted({name for name in _names_in_layers(model) if scope == "block" or "att" in name.lower()})
    if scope == "attention" and not inside and family in DEFAULT_TARGETS:
        scope = "qv"  # a family whose attention has another name (Nemotron-H's mixers)
    if scope != "qv":
        slices = {weight: ["q", "k", "v"] for weight in DEFAULT_SLICES.get(family, {})}
        if not inside:
            kind = "weight of attention" if scope == "attention" else "linear weight"
            raise TargetError(
                f"target_modules: no {kind} is inside a list of layers of {name_of(model)}; "
                "name the weights to adapt, for example target_modules='all-linear'"
            )
        return inside, {k: v for k, v in slices.items() if any(ends_with(name, k) for name in inside)} or None
    if family not in DEFAULT_TARGETS:
        raise TargetError(
            f"target_modules: no default is known for model family {family!r} ({name_of(model)}); "
            "name the weights to adapt, for example target_modules=['q_proj', 'v_proj'] or 'all-linear'"
        )
    targets = DEFAULT_TARGETS[family]
    if not isinstance(targets, str):
        targets = [t for t in targets if t not in unmatched(targets, model)] or list(targets)
    return targets, DEFAULT_SLICES.get(family)


def _names_in_layers(model: nn.Module) -> Iterable[str]:
    """Names of the linear weights inside numbered layers, after the last number: "attention.self.query"."""
    for path in linear_names(model):
        numbered = re.search(r".*\.\d+\.(.+)", path)
        if numbered and not isinstance(unwrap(model.get_submodule(path.rpartition(".")[0])), nn.MultiheadAttention):
            yield numbered[1]


def fused_layout(path: str, module: nn.Module, model: nn.Module, o: int, i: int) -> dict[str, tuple[int, int]]:
    """Rows [start, stop) of q, k and v in a fused weight (o, i), from the model's head counts.

    Raises:
        TargetError: the rows interleave q, k and v, or their sizes cannot be determined.
    """
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    family = getattr(config, "model_type", None)
    leaf = path.rpartition(".")[2]
    if INTERLEAVED.get(str(family)) == leaf:
        raise TargetError(
            f"target_slices: {path} interleaves q, k and v head by head in {name_of(model)}; "
            "it has no row slice for each, so adapt the whole weight"
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
        f"target_slices: the rows of q, k and v in {path} ({o}, {i}) cannot be determined from {name_of(model)}'s "
        "configuration; give them: {'" + leaf + "': {'q': [start, stop], …}}"
    )
