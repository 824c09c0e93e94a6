"""What takes the place of an adapted module: the module itself, and the tensors of any number of adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from genft.api.method import Method, Site


class AdapterLayer(nn.Module, BaseTunerLayer):
    """What weight and block layers share: where the tensors of each adapter live.

    A site's own tensors are in ``<prefix>factors[adapter]``, a ParameterDict under names such as ``a`` or, for a row
    slice, ``q_a``. Shared tensors stay in the tuner's container, which this layer refers to through a tuple, so that
    torch neither registers nor saves them twice, and always looks up by name (loading may replace parameters).
    """

    def __init__(self, base_layer: nn.Module, prefix: str, shared: nn.ModuleDict | None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.training = base_layer.training  # a layer added to a model in evaluation must not start to drop out
        self.factors_name = f"{prefix}factors"
        setattr(self, self.factors_name, nn.ModuleDict())
        self.adapter_layer_names = (self.factors_name,)
        self.other_param_names = ("attachments",)
        self.frozen_peft_weight_names = {}
        self.merged_adapters = []
        self.attachments: dict[str, Attachment] = {}
        self._shared = (shared,)

    @property
    def own_factors(self) -> nn.ModuleDict:
        return getattr(self, self.factors_name)

    def attach(self, adapter_name: str, method: Method, sites: list[Site]) -> None:
        """Add an adapter: create the tensors that belong to this module alone, in its device and dtype."""
        own = nn.ParameterDict()
        places: dict[str, dict[str, Place]] = {}
        for site in sites:
            of_site = places[site.slice or ""] = {}
            for name, factor in method.factors(site).items():
                of_site[name] = Place(own_key(site, name), factor.shared_as)
                if factor.shared_as is None:
                    own[own_key(site, name)] = new_parameter(factor.shape, factor.init)
        self.own_factors[adapter_name] = own
        self.attachments[adapter_name] = Attachment(method, tuple(sites), places)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def factors(self, adapter_name: str, site: Site) -> dict[str, Tensor]:
        """The trained tensors of one site by symbol, wherever they are stored."""
        own, (shared,) = entry(self.own_factors, adapter_name), self._shared
        of_all = None if shared is None or adapter_name not in shared else entry(shared, adapter_name)
        found: dict[str, Tensor] = {}
        for name, place in self.attachments[adapter_name].places[site.slice or ""].items():
            if place.shared_as is None:
                found[name] = own[place.own]
            else:
                assert of_all is not None
                found[name] = of_all[place.shared_as]
        return found

    def active_attachments(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.attachments]

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


class Place(NamedTuple):
    """Where a factor is: in the module's own tensors, or under ``shared_as`` in those of all."""

    own: str
    shared_as: str | None


@dataclass
class Attachment:
    """One adapter on one module, and where the factors of its sites are, by row slice ("" without) and symbol."""

    method: Method
    sites: tuple[Site, ...]
    places: dict[str, dict[str, Place]]

    @property
    def shared_names(self) -> list[str]:
        """The names of the shared factors that are used here, each once."""
        found = (place.shared_as for of_site in self.places.values() for place in of_site.values())
        return list(dict.fromkeys(name for name in found if name is not None))


def entry(container: nn.ModuleDict, adapter_name: str) -> nn.ParameterDict:
    """The tensors of one adapter in a container keyed by adapter name."""
    return cast(nn.ParameterDict, container[adapter_name])


def own_key(site: Site, name: str) -> str:
    return f"{site.slice}_{name}" if site.slice else name


def new_parameter(shape: tuple[int, ...], init: Any, device: torch.device | None = None) -> nn.Parameter:
    tensor = torch.empty(shape, device=device)
    with torch.no_grad():
        init(tensor)
    return nn.Parameter(tensor)
