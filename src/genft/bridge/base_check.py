"""What is compared and checked around saving and loading: the base's fingerprint, sketches of updates, the values."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from genft.api.config import AdapterConfig
from genft.bridge import fingerprint
from genft.bridge.adapter_file import PEFT_PREFIX
from genft.bridge.targets import read_weight, unwrap, weight_kind
from genft.bridge.weight.layer import WeightLayer
from genft.errors import BaseMismatchError
from genft.models.quantised import dequantised, quantisation_name

_HALF = ("bfloat16", "float16")


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


def file_entries(sketches: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Sketches by their names in an adapter file, beside the vectors that they belong to."""
    return {f"{PEFT_PREFIX}{site}.{prefix}sketch": sketch.float() for site, sketch in sketches.items()}


def take_sketches(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Site → sketch: what :func:`file_entries` has put into ``state_dict``, taken out of it."""
    ending = f".{prefix}sketch"
    names = [name for name in state_dict if name.endswith(ending)]
    return {name.removeprefix(PEFT_PREFIX).removesuffix(ending): state_dict.pop(name) for name in names}


def check_updates(config: AdapterConfig, model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Once after loading: compare the updates with the sketches that came with the values.

    Raises:
        BaseMismatchError: naming the first weight whose update means another matrix here, and why.
    """
    found = update_sketches(model, adapter_name, state_dict)
    if not found:
        return  # weights on the meta device: the first forward pass compares
    expected, config.expected_sketches = config.expected_sketches, {}
    if fingerprint.other_base_allowed():
        return
    for site, sketch in found.items():
        apart = fingerprint.update_distance(expected[site], sketch) if site in expected else 0.0
        if apart > fingerprint.UPDATE_TOLERANCE:
            path = site.partition("[")[0]
            trained = ((config.expected_fingerprint or config.base_fingerprint or {}).get(path) or {}).get("dtype")
            here = (base_fingerprint(_submodule(model, path)) or {}).get("dtype")
            raise BaseMismatchError(_another_matrix(site, apart, trained, here))


def _submodule(model: nn.Module, path: str) -> nn.Module:
    inner: Any = model
    return (inner.get_base_model() if isinstance(model, PeftModel) else inner).get_submodule(path)


def _another_matrix(site: str, apart: float, trained: str | None, here: str | None) -> str:
    what = f"adapter: its update of {site} is another matrix here, {apart:.2g} away from the one that was trained: "
    if trained == here:
        return what + (
            "nearly equal singular values leave the singular vectors open, and others were found here; where it was "
            "trained, load the adapter with save_bases=True in its configuration and save it again, which stores "
            "the vectors"
        )
    cast = f", attach the adapter, and cast the model then (model.to(torch.{here}))" if here in _HALF else ""
    return what + (
        f"it was trained on a base in {trained} and this one is in {here}, whose rounding moves the singular vectors; "
        f"load the base in {trained}{cast}, or store the vectors where it was trained (save_bases=True in its "
        "configuration, and save it again)"
    )
