"""An adapter as a standard LoRA adapter.

The conversion is exact, to dtype precision, if every update is low-rank by construction (GenFT with identity
activations). Otherwise, peft's own conversion gives the best approximation of a rank, with the error of each layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora.conversion import convert_to_lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from genft.adapters.base_record import read_base_record
from genft.adapters.card import lora_card
from genft.adapters.lora_adapter import ConvertedLayer, LoraAdapter, check_program, fit
from genft.adapters.saved import Opened, save_preprocessing
from genft.bridge.adapter_file import PEFT_PREFIX
from genft.bridge.layer import AdapterLayer
from genft.bridge.weight.layer import WeightLayer
from genft.bridge.weight.row_slices import place_rows
from genft.errors import ConfigError
from genft.models.weights import FrozenWeight, unwrap

#: Share of the squared singular values that an approximation of automatic rank keeps.
ENERGY = 0.99

Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def to_lora(
    model: PeftModel,
    *,
    rank: int | None = None,
    energy: float | None = None,
    adapter_name: str = "default",
    program: str = "peft",
) -> LoraAdapter:
    """The LoRA adapter nearest to an adapter of ``model``, which is not changed.

    Args:
        rank: the maximum rank of every weight; an update of lower rank by construction keeps its own rank.
        energy: alternative to ``rank``: for each weight, the smallest rank that keeps this share of the squared
            singular values. Without either, the exact form if there is one, else an energy of 0.99.
        program: the program that will load it, a member of ``lora_adapter.READERS``.

    Raises:
        ConfigError: the adapter changes more than linear weights and their biases, the rank is not possible, or the
            program could not load a part of it.
    """
    check_program(program)
    layers = _convertible(model, adapter_name)
    _check_rank(rank, energy, layers)
    pairs = _exact_pairs(layers, adapter_name) if energy is None else None
    if pairs is not None and rank is not None and max(len(a) for a, _ in pairs.values()) > rank:
        pairs = None
    exact = pairs is not None
    if pairs is None:
        pairs = _nearest_pairs(model, layers, float(energy or ENERGY) if rank is None else rank, adapter_name)
    base, biases = model.get_base_model(), _biases(layers, pairs, adapter_name)
    config = _lora_config(base, model.peft_config[adapter_name], {p: len(a) for p, (a, _) in pairs.items()})
    config.lora_bias = bool(biases)
    lora = LoraAdapter(
        config=config,
        tensors=_tensors(base, pairs, biases, adapter_name),
        layers=tuple(
            ConvertedLayer(path, len(a), _error(layers[path], adapter_name, a, b)) for path, (a, b) in pairs.items()
        ),
        exact=exact,
        notes=tuple(_notes(layers, adapter_name)),
        program=program,
        base_class=type(base).__name__,
    )
    return fit(lora, program)


def save_lora(folder: Path, lora: LoraAdapter, opened: Opened) -> None:
    """Write a folder for peft, and also for ``genft predict`` if the adapter came from ``genft train``."""
    lora.save(folder)
    save_preprocessing(folder, opened)
    if opened.saved is not None:
        opened.saved.model_copy(update={"method": "lora"}).write(folder)
        if (record := read_base_record(opened.folder)) is not None:
            record.write(folder)
    worst = None if lora.exact else max(layer.error for layer in lora.layers)
    base = opened.base
    lora_card(opened.saved, lora.config.base_model_name_or_path, type(base).__name__, _labels(base), worst).write(
        folder
    )


def _labels(base: PreTrainedModel) -> list[str]:
    """Names of the outputs of a classification head, in order; empty for a model without one."""
    if not type(base).__name__.endswith("Classification"):
        return []
    names: dict[int, str] = cast(Any, base.config).id2label
    return [names[i] for i in range(len(names))]


def _convertible(model: PeftModel, adapter_name: str) -> dict[str, BaseTunerLayer]:
    """The adapted modules by path; raises a ConfigError with the reason if one of them has no LoRA form."""
    layers: dict[str, BaseTunerLayer] = {}
    for path, layer in model.get_base_model().named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        if isinstance(layer, AdapterLayer) and adapter_name not in layer.attachments:
            continue
        if (why := _no_lora_form(path, layer, adapter_name)) is not None:
            raise ConfigError(f"to-lora: {why}")
        layers[path] = layer
    if not layers:
        raise ConfigError(f"to-lora: the adapter {adapter_name!r} changes no weight")
    return layers


def _no_lora_form(path: str, layer: BaseTunerLayer, adapter_name: str) -> str | None:
    if isinstance(layer, WeightLayer):
        if layer.attachments[adapter_name].method.bias_only:
            return f"it changes biases ({path}), which a LoRA adapter cannot hold; merge it instead"
        if isinstance(layer.get_base_layer(), nn.MultiheadAttention):
            return f"{path} is an nn.MultiheadAttention, where peft's LoRA is bypassed in evaluation; merge it instead"
        return None
    if isinstance(layer, AdapterLayer):
        return f"it computes a nonlinear function alongside {path}, which no LoRA adapter equals; keep it attached"
    if not layer.supports_lora_conversion(adapter_name):
        return f"peft cannot convert {type(layer).__name__} ({path}) to LoRA"
    return None


def _check_rank(rank: int | None, energy: float | None, layers: dict[str, BaseTunerLayer]) -> None:
    if rank is not None and energy is not None:
        raise ConfigError("rank, energy: give one of them; the energy decides the rank of each weight")
    if energy is not None and not 0 < energy <= 1:
        raise ConfigError(f"energy: received {energy}; allowed: 0 < energy <= 1")
    path, most = min(
        ((path, min(FrozenWeight.of(cast(nn.Module, m)).shape)) for path, m in layers.items()),
        key=lambda item: item[1],
    )
    if rank is not None and not 1 <= rank <= most:
        raise ConfigError(f"rank: received {rank}; allowed: 1 to {most}, the smaller side of {path}")


def _exact_pairs(layers: dict[str, BaseTunerLayer], adapter_name: str) -> dict[str, Pair] | None:
    """(A, B) of every weight by path, or None if an update has no low-rank form by construction."""
    pairs = {}
    for path, layer in layers.items():
        if not isinstance(layer, WeightLayer):
            return None
        method = layer.attachments[adapter_name].method
        w0, left, right = layer.frozen_weight(), [], []
        for site in layer.attachments[adapter_name].sites:
            pair = method.low_rank(w0[site.start : site.stop], layer.factors(adapter_name, site))
            if pair is None:
                return None
            left.append(place_rows([(site, pair[0])], layer.out_features))
            right.append(pair[1])
        a, b = balanced(torch.cat(left, dim=1), torch.cat(right, dim=1))
        pairs[path] = (a, _only_slices(layer, adapter_name, b))
    return pairs


def balanced(left: Tensor, right: Tensor) -> Pair:
    """(A, B) with B A = L Rᵀ, equal in norm, and without directions that L Rᵀ does not have.

    Slices of one weight share most of R, so the rank of their sum is less than the sum of their ranks.

    Args:
        left: L (o, k).
        right: R (i, k).
    """
    (q_left, r_left), (q_right, r_right) = (torch.linalg.qr(t.cpu().double()) for t in (left, right))
    u, s, vh = torch.linalg.svd(r_left @ r_right.T)
    kept = max(1, int((s > s[0] * torch.finfo(left.dtype).eps).sum()))
    root = s[:kept].sqrt()
    a, b = (root[:, None] * vh[:kept]) @ q_right.T, q_left @ (u[:, :kept] * root)
    return a.to(left), b.to(left)


def _nearest_pairs(
    model: PeftModel, layers: dict[str, BaseTunerLayer], rank: float, adapter_name: str
) -> dict[str, Pair]:
    """(A, B) of every weight by path, from peft's conversion (a singular value decomposition of ΔW)."""
    try:
        _, tensors = convert_to_lora(model, rank=rank, adapter_name=adapter_name)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"to-lora: {e}") from None
    pairs = {}
    for path, layer in layers.items():
        a, b = (tensors[f"{PEFT_PREFIX}{path}.lora_{name}.weight"] for name in "AB")
        pairs[path] = (a, _only_slices(layer, adapter_name, b))
    return pairs


def _only_slices(layer: BaseTunerLayer, adapter_name: str, b: Tensor) -> Tensor:
    """B with exact zeros in the rows that the adapter does not change."""
    if not isinstance(layer, WeightLayer):
        return b
    return place_rows([(s, b[s.start : s.stop]) for s in layer.attachments[adapter_name].sites], len(b))


def _biases(layers: dict[str, BaseTunerLayer], pairs: dict[str, Pair], adapter_name: str) -> dict[str, Tensor]:
    """Δb (o,) of every module by path, zeros if only others have one; nothing if no bias was trained."""
    changes = {path: m.delta_bias(adapter_name) if isinstance(m, WeightLayer) else None for path, m in layers.items()}
    if all(change is None for change in changes.values()):
        return {}
    zeros = {path: b.new_zeros(len(b)) for path, (_, b) in pairs.items()}
    return {path: zeros[path] if change is None else change for path, change in changes.items()}


def _tensors(
    base: nn.Module, pairs: dict[str, Pair], biases: dict[str, Tensor], adapter_name: str
) -> dict[str, Tensor]:
    """Everything that is saved, by peft's names."""
    tensors = {}
    for path, (a, b) in pairs.items():
        tensors[f"{PEFT_PREFIX}{path}.lora_A.weight"] = a
        tensors[f"{PEFT_PREFIX}{path}.lora_B.weight"] = b
    tensors |= {f"{PEFT_PREFIX}{path}.lora_B.bias": bias for path, bias in biases.items()}
    for path, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            for name, tensor in module.modules_to_save[adapter_name].state_dict().items():
                tensors[f"{PEFT_PREFIX}{path}.{name}"] = tensor
    return tensors


def _error(layer: BaseTunerLayer, adapter_name: str, a: Tensor, b: Tensor) -> float:
    delta = cast(Any, layer).get_delta_weight(adapter_name).float()
    product = b.float() @ a.float()
    if isinstance(layer.get_base_layer(), Conv1D):
        product = product.T
    size = float(delta.norm())
    return float((delta - product).norm()) / size if size else float(product.norm())


def _lora_config(base: nn.Module, original: PeftConfig, ranks: dict[str, int]) -> LoraConfig:
    """The configuration under which plain peft builds exactly these layers."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {path: rank for path, rank in ranks.items() if rank != usual}
    leaves = {path.rpartition(".")[2] for path in ranks}
    same_leaf = {path for path, _ in base.named_modules() if path.rpartition(".")[2] in leaves}
    config = LoraConfig(
        task_type=original.task_type,
        r=usual,
        lora_alpha=usual,
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=sorted(leaves if same_leaf == set(ranks) else ranks),
        fan_in_fan_out=all(isinstance(unwrap(base.get_submodule(path)), Conv1D) for path in ranks),
        # peft adds its own names for heads each time it processes such a configuration
        modules_to_save=list(dict.fromkeys(getattr(original, "modules_to_save", None) or ())) or None,
        base_model_name_or_path=original.base_model_name_or_path,
        revision=original.revision,
        inference_mode=True,
    )
    if original.task_type is None:  # as peft's own save_pretrained does, for AutoPeftModel
        config.auto_mapping = {
            "base_model_class": type(base).__name__,
            "parent_library": type(base).__module__,
        }
    return config


def _notes(layers: dict[str, BaseTunerLayer], adapter_name: str) -> Iterator[str]:
    sliced = {
        path.rpartition(".")[2]: ", ".join(str(site.slice) for site in layer.attachments[adapter_name].sites)
        for path, layer in layers.items()
        if isinstance(layer, WeightLayer) and layer.attachments[adapter_name].sites[0].slice
    }
    for leaf, slices in sliced.items():
        yield (
            f"{leaf}: a LoRA adapter covers a weight as a whole; lora_B is zero in its rows outside of {slices}, "
            "which further training of the LoRA adapter would change"
        )
