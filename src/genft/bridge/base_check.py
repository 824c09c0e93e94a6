"""Checks on saving and loading: the base's fingerprint, and sketches of updates."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from genft.bridge import fingerprint
from genft.bridge.adapter import Adapter
from genft.bridge.adapter_file import PEFT_PREFIX
from genft.bridge.layer import AdapterLayer, layers_of, own_key
from genft.bridge.weight.layer import WeightLayer
from genft.errors import BaseMismatchError
from genft.models.weights import FrozenWeight, has_linear_weight, unwrap
from genft.ops.sketch import signs

_HALF = ("bfloat16", "float16")
#: Rows of a saved sketch: the sketch itself, and what tells the trained values and the derived tensors from others.
_SKETCH, _TRAINED, _DERIVED = slice(8), slice(8, 9), slice(9, 10)

# -------------------------------------------------------------------- the base's fingerprint


def base_fingerprint(module: nn.Module, like: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Fingerprint of the pretrained weight in ``module``: of its own, else of the first one inside (a block);
    None if there is no matrix (a normalisation). With all that the fingerprint ``like`` has."""
    linear = _first_linear(module)
    if linear is None:
        return None
    w0 = FrozenWeight.of(linear)
    return fingerprint.take(w0.weight, quantisation=w0.quantisation, hashed="hash" in (like or {}))


def _first_linear(module: nn.Module) -> nn.Module | None:
    return next((m for m in unwrap(module).modules() if has_linear_weight(m)), None)


def base_weight(module: nn.Module, rows: slice = slice(None)) -> Tensor:
    """Rows of the pretrained weight (o, i) in ``module``, dequantised if it is stored packed."""
    return FrozenWeight.of(module).weight[rows]


def refuse_merged(modules: Iterable[tuple[str, nn.Module]], purpose: str) -> None:
    """Raise a BaseMismatchError if an adapter is merged into one of the modules (path, module)."""
    for path, module in modules:
        if isinstance(module, BaseTunerLayer) and module.merged:
            raise BaseMismatchError(f"adapter: {path} has an adapter merged into it; unmerge it before {purpose}")


def has_no_values_yet(adapter: Adapter[Any], model: nn.Module) -> bool:
    """Whether an adapted module still has tensors on the meta device."""
    return any(p.is_meta for path in adapter.sites for p in unwrap(model.get_submodule(path)).parameters())


def record_or_compare(adapter: Adapter[Any], model: nn.Module) -> None:
    """Record the base of a new adapter, or compare it with the base that a loaded adapter was trained on.

    Raises:
        BaseMismatchError: naming the first weight that differs.
    """
    expected = adapter.expected_fingerprint
    of_sites = {path: base_fingerprint(model.get_submodule(path), (expected or {}).get(path)) for path in adapter.sites}
    here = {path: taken for path, taken in of_sites.items() if taken is not None}
    if expected is not None and not fingerprint.other_base_allowed():
        fingerprint.check(expected, here)
        adapter.fingerprint = dict(expected)
    else:
        adapter.fingerprint = here


def compare_with_file(adapter: Adapter[Any], model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Compare the base with the fingerprints from an adapter file, once the adapter is on the model.

    Weights that are trained beside the adapter are not compared. A base without values yet is compared in its first
    forward pass.

    Raises:
        BaseMismatchError: naming the first weight that differs.
    """
    if not stored:
        return  # genft 0.1: in the configuration
    read = {path: fingerprint.from_tensor(taken) for path, taken in stored.items()}
    expected = {path: taken for path, taken in read.items() if taken is not None}
    if edited := len(read) - len(expected):
        warnings.warn(
            f"adapter: the records of {edited} base weights were edited after they had been saved, so these weights "
            "could not be checked",
            stacklevel=2,
        )
    adapter.expected_fingerprint = expected
    if adapter.fingerprint is None or fingerprint.other_base_allowed():
        return
    if any(path in expected and expected[path] != taken for path, taken in adapter.fingerprint.items()):
        record_changes(adapter, model)  # other weights may have been loaded since the adapter was attached
        fixed = expected.keys() - _trained_beside(adapter, model)
        fingerprint.check({path: taken for path, taken in expected.items() if path in fixed}, adapter.fingerprint)
    adapter.fingerprint |= expected


def _trained_beside(adapter: Adapter[Any], model: nn.Module) -> set[str]:
    """Paths of the adapted modules whose base weight is trained as well."""
    return {path for path, _, linear in _linears(adapter, model) if FrozenWeight.of(linear).trained}


def _linears(adapter: Adapter[Any], model: nn.Module) -> Iterator[tuple[str, AdapterLayer[Any], nn.Module]]:
    """(path, layer, the module with the base weight of which the fingerprint is taken) of every layer that has one."""
    for layer in layers_of(adapter, model):
        linear = _first_linear(layer)
        if linear is not None:
            yield layer.attachments[adapter.name].sites[0].module, layer, linear


def record_changes(adapter: Adapter[Any], model: nn.Module) -> None:
    """Renew the fingerprints of base weights that have changed since the adapter was created, because other weights
    were loaded or the base is trained too. An adapter fits the base that it was trained on."""
    if adapter.fingerprint is None:
        return
    for path, layer, linear in _linears(adapter, model):
        if any(isinstance(m, BaseTunerLayer) and m.merged for m in (layer, linear)):
            continue
        w0 = FrozenWeight.of(linear)
        if w0.is_whole and (w0.trained or not fingerprint.fits(adapter.fingerprint.get(path), w0.weight)):
            adapter.fingerprint[path] = base_fingerprint(layer)


# -------------------------------------------------------------------- sketches of updates


def update_sketches(model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Site → sketch (10, 8) of its update with the values in ``state_dict``, for methods that ask for one.

    Eight rows are the sketch itself. The last two tell the trained values, and the derived tensors, from others: files
    may be edited (averages, noise, the largest values alone), and the sketch is then that of other values. Files of
    genft 0.1 do not have these two.
    """
    sketches: dict[str, Tensor] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, WeightLayer) or adapter_name not in layer.attachments:
            continue
        if layer.attachments[adapter_name].method.overrides("sketch"):
            sketches |= _layer_sketches(layer, adapter_name, path, state_dict)
    return sketches


def _layer_sketches(
    layer: WeightLayer, adapter_name: str, path: str, state_dict: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Site → its method's sketch of ΔW, with the values in ``state_dict`` for the layer at ``path``."""
    sketches: dict[str, Tensor] = {}
    attachment = layer.attachments[adapter_name]
    for site in attachment.sites:
        if site.in_features == 0:
            continue
        values = layer.factors(adapter_name, site)
        for name in values:
            for container in (layer.factors_name, layer.derived_name):
                key = f"{path}.{container}.{adapter_name}.{own_key(site, name)}"
                values[name] = state_dict.get(key, values[name])
        if any(value.is_meta for value in values.values()):
            continue
        left, right = signs(site.out_features, 0), signs(site.in_features, 1)
        rows = partial(_frozen_rows, layer, slice(site.start, site.stop))
        if (sketch := attachment.method.sketch(rows, values, left, right)) is not None:
            trained = attachment.places[site.slice or ""].keys()
            identities = [
                fingerprint.identity([values[name] for name in sorted(values) if (name in trained) == own])
                for own in (True, False)
            ]
            sketches[str(site)] = torch.stack([*sketch.float().cpu(), *identities])
    return sketches


def _frozen_rows(layer: WeightLayer, rows: slice) -> Tensor:
    return layer.frozen_weight()[rows]


def file_entries(adapter: Adapter[Any], model: nn.Module, sketches: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an adapter file holds besides values, by module: the base's fingerprints and the sketches.

    They also name the modules where peft takes these from the keys of a file, which may have nothing else of a module
    that has no factors beside shared ones.
    """
    start = PEFT_PREFIX if isinstance(model, PeftModel) else ""
    base = {
        f"{start}{path}.{adapter.prefix}base": fingerprint.to_tensor(taken)
        for path, taken in (adapter.fingerprint or {}).items()
    }
    return base | {f"{start}{site}.{adapter.prefix}sketch": sketch.float() for site, sketch in sketches.items()}


def take_base(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the fingerprints of :func:`file_entries` from ``state_dict`` and return them by module path."""
    return _take(state_dict, f".{prefix}base")


def take_sketches(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the sketches of :func:`file_entries` from ``state_dict`` and return them by site."""
    return _take(state_dict, f".{prefix}sketch")


def _take(state_dict: dict[str, Tensor], suffix: str) -> dict[str, Tensor]:
    names = [name for name in state_dict if name.endswith(suffix)]
    return {name.removeprefix(PEFT_PREFIX).removesuffix(suffix): state_dict.pop(name) for name in names}


def compare_updates(adapter: Adapter[Any], model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Compare the updates with the sketches that were loaded with the values, once after loading.

    A warning names the weights whose values were edited since, so that nothing can be said of them.

    Raises:
        BaseMismatchError: naming the first weight whose update is a different matrix here, and why.
    """
    here = update_sketches(model, adapter.name, state_dict)
    if not here:
        return  # weights on the meta device: compared in the first forward pass
    expected, adapter.expected_sketches = adapter.expected_sketches, {}
    if fingerprint.other_base_allowed():
        return
    edited = []
    for site in [site for site in here if site in expected]:
        saved, sketch = expected[site].cpu().float(), here[site]
        apart = fingerprint.update_distance(saved[_SKETCH], sketch[_SKETCH])
        if apart <= fingerprint.UPDATE_TOLERANCE or torch.equal(saved[_DERIVED], sketch[_DERIVED]):
            continue
        if len(saved) == len(sketch) and not torch.equal(saved[_TRAINED], sketch[_TRAINED]):
            edited.append(site)
            continue
        path = site.partition("[")[0]
        trained_on = (adapter.expected_fingerprint or adapter.fingerprint or {}).get(path) or {}
        found = base_fingerprint(_submodule(model, path)) or {}
        raise BaseMismatchError(_another_matrix(site, apart, trained_on.get("dtype"), found.get("dtype")))
    if edited:
        warnings.warn(
            f"adapter: the values of {len(edited)} weights ({min(edited)}, …) were edited after they had been saved, "
            "so they could not be checked against the singular vectors of this model",
            stacklevel=2,
        )


def _submodule(model: nn.Module, path: str) -> nn.Module:
    inner: Any = model
    return (inner.get_base_model() if isinstance(model, PeftModel) else inner).get_submodule(path)


def _another_matrix(site: str, apart: float, trained: str | None, here: str | None) -> str:
    start = f"adapter: its update of {site} is another matrix here, {apart:.2g} away from the one that was trained: "
    if trained == here:
        return start + (
            "nearly equal singular values leave the singular vectors open, and others were found here; where it was "
            "trained, load the adapter with save_bases=True in its configuration and save it again, which stores "
            "the vectors"
        )
    if trained in fingerprint.QUANTISED:
        return start + (
            f"it was trained on a base in {trained} and this one is in {here}, whose rounding moves the singular "
            f"vectors; load the base in {trained}, or store the vectors where it was trained: load it there with "
            "save_bases=True in its configuration and save it again"
        )
    cast = f", attach the adapter, and cast the model then (model.to(torch.{here}))" if here in _HALF else ""
    return start + (
        f"it was trained on a base in {trained} and this one is in {here}, whose rounding moves the singular vectors; "
        f"load the base in {trained}{cast}, or store the vectors where it was trained (save_bases=True in its "
        "configuration, and save it again)"
    )
