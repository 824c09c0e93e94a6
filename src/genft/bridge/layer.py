"""The layer that replaces an adapted module: it wraps the module and holds the tensors of any number of adapters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Generic, NamedTuple, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from genft.api.method import Site
from genft.bridge.adapter import Adapter, M
from genft.bridge.shared import move, new_parameter


class Place(NamedTuple):
    """Where a factor is stored: with the module, or as ``shared_as`` among the factors that all layers share."""

    own: str
    shared_as: str | None


@dataclass
class Attachment(Generic[M]):
    """One adapter on one module.

    Attributes:
        adapter: the adapter.
        sites: its sites in this module.
        places: where the factors of these sites are stored, by row slice ("" without slices) and symbol.
    """

    adapter: Adapter[M]
    sites: tuple[Site, ...]
    places: dict[str, dict[str, Place]]

    @property
    def method(self) -> M:
        return self.adapter.method

    @property
    def shared_names(self) -> list[str]:
        """The distinct names of the shared factors that are used here."""
        names = (place.shared_as for factors in self.places.values() for place in factors.values())
        return list(dict.fromkeys(name for name in names if name is not None))


class AdapterLayer(nn.Module, BaseTunerLayer, Generic[M]):
    """The common base of weight and block layers: storage for each adapter's tensors, and peft's switches.

    A site's own tensors are in ``<prefix>factors[adapter]``, a ParameterDict under names such as ``a`` or, for a row
    slice, ``q_a``. Shared tensors belong to the root of the model (:class:`~genft.bridge.shared.SharedFactors`); this
    layer accesses them through the adapter's record, so that torch neither registers nor saves them twice, and looks
    them up by name at each use (loading may replace parameters). peft switches adapters layer by layer; a switch of a
    layer also applies to the adapter's shared tensors.
    """

    def __init__(self, base_layer: nn.Module, prefix: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.prefix = prefix
        self.training = base_layer.training  # a layer added to a model in evaluation mode must not apply dropout
        self.factors_name = f"{prefix}factors"
        setattr(self, self.factors_name, nn.ModuleDict())
        self.adapter_layer_names = (self.factors_name,)
        self.other_param_names = ("attachments",)
        self.frozen_peft_weight_names = {}
        self.merged_adapters = []
        self.attachments: dict[str, Attachment[M]] = {}

    @property
    def own_factors(self) -> nn.ModuleDict:
        return getattr(self, self.factors_name)

    def attach(self, adapter: Adapter[M], sites: list[Site]) -> None:
        """Add an adapter: create the tensors that belong to this module alone, on its device and in its dtype."""
        own = nn.ParameterDict()
        places: dict[str, dict[str, Place]] = {}
        for site in sites:
            factor_places = places[site.slice or ""] = {}
            for name, factor in adapter.method.factors(site).items():
                factor_places[name] = Place(own_key(site, name), factor.shared_as)
                if factor.shared_as is None:
                    own[own_key(site, name)] = new_parameter(factor)
        self.own_factors[adapter.name] = own
        self.attachments[adapter.name] = Attachment(adapter, tuple(sites), places)
        self._move_adapter_to_device_of_base_layer(adapter.name)

    def detach(self, adapter_name: str) -> None:
        """Remove an adapter that is being replaced by another one of the same name."""
        for attribute in (*self.adapter_layer_names, *self.other_param_names):
            if adapter_name in getattr(self, attribute):
                del getattr(self, attribute)[adapter_name]

    def holds(self, adapter: Adapter[Any]) -> bool:
        """Whether this very adapter is on this module, not another one of the same name."""
        attachment = self.attachments.get(adapter.name)
        return attachment is not None and attachment.adapter is adapter

    def factors(self, adapter_name: str, site: Site) -> dict[str, Tensor]:
        """The trained tensors of one site by symbol, whether own or shared."""
        attachment = self.attachments[adapter_name]
        own, shared = entry(self.own_factors, adapter_name), attachment.adapter.shared
        return {
            symbol: own[place.own] if place.shared_as is None else shared[place.shared_as]
            for symbol, place in attachment.places[site.slice or ""].items()
        }

    def active_attachments(self) -> list[str]:
        """Names of the active adapters that are on this module."""
        return [name for name in self.active_adapters if name in self.attachments]

    # ---------------------------------------------------------------- peft's switches

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        for name, attachment in self.attachments.items():
            attachment.adapter.shared.requires_grad_(name in self.active_adapters and not inference_mode)

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        if not enabled:
            for attachment in self.attachments.values():
                attachment.adapter.shared.requires_grad_(False)

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in names:
            if name in self.attachments:
                self.attachments[name].adapter.shared.requires_grad_(requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        attachment = self.attachments.get(adapter_name)
        super().delete_adapter(adapter_name)
        if attachment is not None:
            attachment.adapter.release()

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        like = next(self.get_base_layer().parameters(), None)
        if adapter_name in self.attachments and like is not None:
            move(self.attachments[adapter_name].adapter.shared, device or like.device)

    # ---------------------------------------------------------------- attributes of the replaced module

    def __getattr__(self, name: str) -> Any:
        # models read attributes of their modules: batch_first of an attention, the type of a block
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def __repr__(self) -> str:
        return "genft." + super().__repr__()


def adapters_in(model: nn.Module, prefix: str | None = None) -> dict[str, Adapter[Any]]:
    """Adapter name → adapter, for all methods of genft on ``model``, or only for the one with this prefix."""
    adapters: dict[str, Adapter[Any]] = {}
    for module in model.modules():
        if isinstance(module, AdapterLayer) and prefix in (None, module.prefix):
            for name, attachment in module.attachments.items():
                adapters.setdefault(name, attachment.adapter)
    return adapters


def layers_of(adapter: Adapter[Any], model: nn.Module) -> Iterator[AdapterLayer[Any]]:
    """The layers of ``model`` that an adapter is on."""
    for module in model.modules():
        if isinstance(module, AdapterLayer) and module.holds(adapter):
            yield module


def derived_settings(model: nn.Module, adapter_name: str) -> dict[str, Any]:
    """Settings of an adapter that its method derived from the base; empty for methods of peft."""
    adapter = adapters_in(model).get(adapter_name)
    if adapter is None:
        return {}
    names = {f.name for f in fields(adapter.config)}
    return {name: value for name, value in adapter.derived().items() if name in names}


def entry(container: nn.ModuleDict, adapter_name: str) -> nn.ParameterDict:
    """The tensors of one adapter in a container keyed by adapter name."""
    return cast(nn.ParameterDict, container[adapter_name])


def own_key(site: Site, name: str) -> str:
    """The name of a site's own tensor in its module."""
    return f"{site.slice}_{name}" if site.slice else name
