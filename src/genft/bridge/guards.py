"""What is compared and checked around saving and loading: the base's fingerprint, sketches of updates, the values."""

from __future__ import annotations

from typing import Any

from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from genft.bridge import fingerprint
from genft.bridge.config import AdapterConfig
from genft.bridge.quantised import dequantised, quantisation_name
from genft.bridge.targets import read_weight, unwrap, weight_kind
from genft.bridge.weight_layer import WeightLayer
from genft.errors import AdapterFileError


def base_fingerprint(module: nn.Module) -> dict[str, Any] | None:
    """Fingerprint of the pretrained weight in ``module``: of its own, else of the first one inside (a block);
    None where there is no matrix (a normalisation)."""
    module = next((m for m in module.modules() if weight_kind(unwrap(m)) is not None), module)
    if weight_kind(unwrap(module)) is None:
        return None
    backend = resolve_quantization_backend(unwrap(module))
    return fingerprint.take(base_weight(module), quantisation=quantisation_name(backend) if backend else None)


def base_weight(module: nn.Module, rows: slice = slice(None)) -> Tensor:
    """Rows of the pretrained weight (o, i) in ``module``, dequantised where it is stored packed."""
    module = unwrap(module)
    kind, backend = weight_kind(module), resolve_quantization_backend(module)
    assert kind is not None
    return (read_weight(module, kind) if backend is None else dequantised(module, backend))[rows]


def update_sketches(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Site → sketch of its update with the values in ``state_dict``, for methods that ask for one."""
    found: dict[str, Tensor] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, WeightLayer) and adapter_name in layer.attachments:
            found |= layer.sketches(adapter_name, path, state_dict)
    return found


def check_updates(config: AdapterConfig, model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Once after loading: compare the updates with the sketches that the configuration came with."""
    found = update_sketches(model, adapter_name, state_dict)
    if found and config.expected_sketch and not fingerprint.other_base_allowed():
        fingerprint.check_updates(config.expected_sketch, found)
    if found:
        config.expected_sketch = None


def check_state_dict(model: nn.Module, prefix: str, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Refuse an adapter file that lacks values, or has values that are not finite.

    Raises:
        AdapterFileError: naming the first tensor.
    """
    wanted = {
        name for name, _ in model.named_parameters() if f".{prefix}" in f".{name}" and f".{adapter_name}." in name
    }
    if missing := sorted(wanted - state_dict.keys()):
        raise AdapterFileError(
            f"adapter file: it has no values for {missing[0]} (and {len(missing) - 1} more); "
            "it is incomplete, or belongs to another configuration"
        )
    broken = next((k for k, v in state_dict.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if broken is not None:
        raise AdapterFileError(f"adapter file: {broken} holds NaN or infinite values; the file is damaged")
