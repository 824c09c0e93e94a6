"""Factors that all layers of an adapter share: stored once, on the root of the adapted model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from genft.api.method import Factor
from genft.errors import GenFTError


class SharedFactors(nn.ModuleDict):
    """Adapter name → the shared factors of that adapter, by name.

    It is registered on the adapted model as ``<prefix>shared``, where ``get_peft_model``, ``inject_adapter_in_model``
    and transformers' ``add_adapter`` all find it, and where FSDP assigns it to the root group. Its keys,
    ``<prefix>shared.<adapter>.<factor>``, have the form that peft's key handling expects. Layers refer to the entry of
    their adapter (:class:`~genft.bridge.adapter.Adapter`) and forward peft's switches to it.
    """

    @classmethod
    def on(cls, model: nn.Module, prefix: str) -> SharedFactors:
        """The container of ``model``, or of the model that it wraps; created if there is none."""
        name = container_name(prefix)
        container = getattr(model, name, None)  # a PeftModel forwards attributes that it does not have itself
        if not isinstance(container, cls):
            container = cls()
            model.add_module(name, container)
        return container

    @classmethod
    def inside(cls, model: nn.Module, prefix: str) -> Iterator[tuple[str, SharedFactors]]:
        """The containers of a method in ``model``, by their paths."""
        name = container_name(prefix)
        for path, module in model.named_modules():
            if isinstance(module, cls) and path.rpartition(".")[2] == name:
                yield path, module

    def forward(self, x: Any) -> Any:
        """Return the input, because a root that is an ``nn.Sequential`` calls all of its children."""
        return x

    def entry(self, adapter_name: str) -> nn.ParameterDict:
        """The factors of one adapter; an empty entry is created if there is none."""
        if adapter_name not in self:
            self[adapter_name] = nn.ParameterDict()
        return cast(nn.ParameterDict, self[adapter_name])

    def discard(self, adapter_name: str) -> None:
        """Remove the entry of an adapter, if there is one."""
        if adapter_name in self:
            del self[adapter_name]


def refuse_reentrant_checkpoints(model: nn.Module) -> None:
    """DDP takes the first gradient of a parameter for all of it. A reentrant checkpoint runs the backward pass layer by
    layer, so what layers share gets a gradient from each, and torch ends with "marked as ready twice".

    Raises:
        GenFTError: layers with shared factors are checkpointed in this way, inside DDP.
    """
    ddp = getattr(DistributedDataParallel, "_active_ddp_module", None)
    if ddp is None or ddp.static_graph:
        return
    containers = (m for m in model.modules() if isinstance(m, SharedFactors))
    if not any(p.requires_grad for container in containers for p in container.parameters()):
        return
    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if getattr(module, "gradient_checkpointing", False) and _is_reentrant(checkpoint):
            raise GenFTError(
                "gradient checkpointing: factors that layers share cannot be trained through reentrant checkpoints in "
                "DDP; use gradient_checkpointing_kwargs={'use_reentrant': False}, or static_graph=True in DDP"
            )


def _is_reentrant(checkpoint: Any) -> bool:
    return bool(getattr(checkpoint, "keywords", {}).get("use_reentrant", False))


def container_name(prefix: str) -> str:
    """The name under which the container of a method is registered."""
    return f"{prefix}shared"


def add_shared(entry: nn.ParameterDict, factors: Mapping[str, Factor], like: Tensor | None) -> None:
    """Create the shared factors that do not exist yet.

    Args:
        entry: the shared factors of the adapter.
        factors: the factors of one site.
        like: a tensor of the adapted module, whose device and dtype are used (the dtype only if it is floating point),
            unless weights are being created on the meta device.
    """
    for factor in factors.values():
        if factor.shared_as is None or factor.shared_as in entry:
            continue
        parameter = new_parameter(factor)
        if like is not None and parameter.device.type != "meta":
            dtype = like.dtype if like.is_floating_point() else parameter.dtype
            parameter = nn.Parameter(parameter.data.to(like.device, dtype))
        entry[factor.shared_as] = parameter


def cast_to_float32(entry: nn.ParameterDict) -> None:
    """Cast shared factors to float32, as peft does with the tensors of layers before training."""
    for name, parameter in list(entry.items()):
        if parameter.dtype in (torch.float16, torch.bfloat16):
            entry[name] = nn.Parameter(parameter.data.to(torch.float32), requires_grad=parameter.requires_grad)


def move(entry: nn.ParameterDict, device: torch.device) -> None:
    """Move factors that were loaded onto a device of another type to the layers' device."""
    for name, parameter in list(entry.items()):
        if parameter.device.type not in ("meta", device.type):
            entry[name] = nn.Parameter(parameter.data.to(device), requires_grad=parameter.requires_grad)


def new_parameter(factor: Factor) -> nn.Parameter:
    """A newly initialised factor."""
    tensor = torch.empty(factor.shape)
    with torch.no_grad():
        factor.init(tensor)
    return nn.Parameter(tensor)
