"""Quantised base weights: read them, and put them back exactly after a merge. peft's back ends do the rest."""

from __future__ import annotations

import copy
from typing import Any

from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn


def dequantised(module: nn.Module, backend: QuantizationBackend) -> Tensor:
    """W0 (o, i) of a quantised module as a plain float tensor.

    On CPUs with AVX-512 bf16, bitsandbytes repacks a 4-bit weight in its first call in evaluation, and peft then
    dequantises the wrong layout; such a weight is unpacked (a copy of it) first.
    """
    weight: Any = module.weight
    state: Any = getattr(weight, "quant_state", None)
    if not getattr(state, "packing_format_for_cpu", False):
        return backend.get_base_weight(module)
    import bitsandbytes.functional as bnb

    packed, state = bnb._convert_weight_packed_for_cpu_inverse(weight.data, copy.copy(state))
    if not state.original_nested:
        state.absmax = state.absmax.T.reshape(-1).float()
    return bnb.dequantize_4bit(packed, state)


def quantisation_name(backend: QuantizationBackend) -> str:
    """``"4bit"`` or ``"int8"``: how coarse the storage is, for the fingerprint's tolerance."""
    return "4bit" if "4" in backend.backend_name else "int8"


def snapshot(module: nn.Module) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """What a merge would lose: the parameter, its attributes (peft clears them), and the module's own state, where
    bitsandbytes keeps a part of an 8-bit weight."""
    weight: Any = module.weight
    own = {name: copy.copy(getattr(module, name)) for name in ("state", "quant_state") if hasattr(module, name)}
    attributes = {name: copy.copy(value) for name, value in weight.__dict__.items()}
    return weight, attributes, own


def restore(module: nn.Module, saved: tuple[Any, dict[str, Any], dict[str, Any]]) -> None:
    """Put back what :func:`snapshot` took."""
    weight, attributes, own = saved
    weight.__dict__.update(attributes)
    module.weight = weight
    module.__dict__.update(own)
