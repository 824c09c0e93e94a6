"""Weighted sums of adapters: one adapter whose update is the weighted sum of the updates of several.

A sum of the trained tensors gives the sum of the updates only where an update is linear in them (singular values,
biases). Everything else would be an approximation that nobody asked for, so it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from genft.api.config import AdapterConfig
from genft.api.method import WeightMethod
from genft.bridge.adapter import Adapter
from genft.bridge.layer import entry, layers_of
from genft.errors import ConfigError, not_one_of

#: Fields of a configuration that do not decide what the trained tensors mean; the sites are compared themselves.
_OF_ONE_ADAPTER = {
    *("inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version"),
    *("target_modules", "exclude_modules", "target_slices", "layers_to_transform", "layers_pattern", "init_weights"),
}


def check_weighted(
    adapters: Mapping[str, Adapter[Any]], names: Sequence[str], weights: Sequence[float], new: str, how: str
) -> None:
    """Refuse a sum that would not be exact.

    Args:
        adapters: the adapters of the method that are on the model.
        names, weights: what is added up.
        new: the name of the sum.
        how: peft's ``combination_type``.

    Raises:
        ConfigError: naming what is wrong.
    """
    where = "add_weighted_adapter"
    for name in names:
        if name not in adapters:
            raise ConfigError(not_one_of(f"{where}: adapters", name, sorted(adapters)))
    if new in adapters:
        raise ConfigError(f"{where}: adapter_name {new!r} is taken; delete that adapter first")
    if not names or len(names) != len(weights) or not all(math.isfinite(weight) for weight in weights):
        raise ConfigError(f"{where}: received {len(names)} adapters and the weights {list(weights)}; one number each")
    if how != "linear":
        raise ConfigError(f"{where}: combination_type received {how!r}; allowed: 'linear', which is exact here")
    first, *others = (adapters[name] for name in names)
    method = first.method
    if not (isinstance(method, WeightMethod) and method.is_linear):
        raise ConfigError(
            f"{where}: the update of {first.prefix.rstrip('_')} is not linear in what it trains, so no adapter of it "
            "is a weighted sum of others; merge them one by one, or convert each with `genft to-lora` and add those up"
        )
    if first.config.modules_to_save:
        raise ConfigError(f"{where}: {names[0]!r} holds whole modules ({', '.join(first.config.modules_to_save)})")
    for other in others:
        if setting := _difference(first.config, other.config):
            raise ConfigError(f"{where}: {names[0]!r} and {other.name!r} differ in {setting}")
        if set(map(str, first.every_site)) != set(map(str, other.every_site)):
            raise ConfigError(f"{where}: {names[0]!r} and {other.name!r} adapt different weights")


def _difference(a: AdapterConfig, b: AdapterConfig) -> str | None:
    """The first setting in which two configurations differ, or None."""
    names = (f.name for f in fields(a) if f.name not in _OF_ONE_ADAPTER)
    return next((name for name in names if getattr(a, name) != getattr(b, name)), None)


@torch.no_grad()
def write_sum(
    model: nn.Module, adapters: Sequence[Adapter[Any]], weights: Sequence[float], total: Adapter[Any]
) -> None:
    """Give ``total`` the weighted sum of what the adapters have trained; factors of linear methods are not shared."""
    for layer in layers_of(total, model):
        for key, parameter in entry(layer.own_factors, total.name).items():
            parts = [entry(layer.own_factors, adapter.name)[key] for adapter in adapters]
            parameter.copy_(
                torch.stack([w * part.to(parameter) for w, part in zip(weights, parts, strict=True)]).sum(0)
            )
