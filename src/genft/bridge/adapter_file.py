"""Find the tensors of one adapter in a model's state dict and in an adapter file.

An adapter may have any name, even "0" or "encoder", so we never search paths for its name: the layers with the adapter
and the container of its shared factors show where its tensors are.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from genft.bridge.adapter import Adapter
from genft.bridge.layer import AdapterLayer
from genft.bridge.shared import SharedFactors, container_name
from genft.errors import AdapterFileError

#: The prefix of names in an adapter file.
PEFT_PREFIX = "base_model.model."


def current_key(key: str) -> str:
    """The present name of a tensor in an adapter file: genft 0.1 stored shared factors under the tuner,
    ``base_model.genft_shared.u_in_768``, while now they are stored under the root of the model."""
    return re.sub(r"^base_model\.(?!model\.)(\w+_shared\.)", rf"{PEFT_PREFIX}\1", key)


def parts_of(adapter: Adapter[Any], model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold only tensors of this adapter, by their paths in ``model``."""
    parts: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        if isinstance(module, AdapterLayer) and module.holds(adapter):
            for name in (*module.adapter_layer_names, *module.other_param_names):
                container = getattr(module, name)
                if isinstance(container, nn.ModuleDict):
                    parts[f"{start}{name}.{adapter.name}"] = container[adapter.name]
        elif isinstance(module, SharedFactors) and module is adapter.container:
            parts[f"{start}{adapter.name}"] = adapter.shared
    return {path.removeprefix("_fsdp_wrapped_module."): part for path, part in parts.items()}


def adapter_state(
    adapter: Adapter[Any], model: nn.Module, state_dict: Mapping[str, Tensor], others: Collection[str]
) -> dict[str, Tensor]:
    """The entries of a model's state dict that belong to an adapter, by their full names.

    Args:
        adapter: the adapter.
        model: the model with the adapter.
        state_dict: the state dict, from which peft has removed every path that contains the name of another adapter.
        others: the names of these other adapters.
    """
    parts = parts_of(adapter, model)
    own = {key: value for key, value in state_dict.items() if key.rpartition(".")[0] in parts}
    if not others:
        return own
    complete: dict[str, Tensor] = {}
    for path, part in parts.items():
        complete |= part.state_dict(prefix=f"{path}.")
    names = {name for path in complete for name in path.split(".")}
    # layer 0 has been removed if an adapter is called "0"
    return complete | own if names & set(others) else own


def without_adapter_name(key: str, adapter_name: str, prefix: str) -> str:
    """The name in an adapter file for an entry of the model's state dict.

    ``…query.genft_factors.default.a`` becomes ``…query.genft_factors.a``; a module with the same name as the adapter
    keeps its name.

    Args:
        key: a name in the state dict.
        adapter_name: the name to remove.
        prefix: the prefix of the tuner's containers, ``genft_``.
    """
    return re.sub(rf"((?:^|\.){re.escape(prefix)}\w+)\.{re.escape(adapter_name)}(?=\.|$)", r"\1", key, count=1)


def shared_keys(adapter: Adapter[Any], model: nn.Module, keys: Collection[str]) -> dict[str, str]:
    """Key in an adapter file → name in the state dict of ``model``, for the shared factors in the file.

    Their path in the file does not matter: the root may be another module, or wrapped once more.
    """
    shared = next((path for path, part in parts_of(adapter, model).items() if part is adapter.shared), None)
    if shared is None:
        return {}
    renamed = {}
    for key in keys:
        head, _, factor = key.rpartition(".")
        if head.rpartition(".")[2] == container_name(adapter.prefix) and factor in adapter.shared:
            renamed[key] = f"{shared}.{factor}"
    return renamed


def own_tensors(adapter: Adapter[Any], model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that an adapter takes from its file: its own, and those of fully saved modules.

    The model's embeddings are taken too, because peft saves them if the vocabulary was resized. It warns if they differ
    from those of the model, and if other tensors were left out.

    Args:
        adapter: the adapter that is being loaded.
        model: with the adapter.
        state_dict: the content of the file, by the names that it has in the model.
    """
    own = set(adapter_state(adapter, model, model.state_dict(), ()))
    for path, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            own |= {f"{path}.{name}" for name in module.adapter_state_dict_load_map(adapter.name).values()}
    own = {name.removeprefix(PEFT_PREFIX) for name in own}
    embeddings = _embeddings(model)
    taken, left_out, replaced = {}, [], []
    for name, tensor in state_dict.items():
        plain = name.removeprefix(PEFT_PREFIX)
        if plain in own:
            taken[name] = tensor
        elif plain in embeddings:
            taken[name] = tensor
            present = embeddings[plain]
            if present.shape != tensor.shape or not torch.equal(present, tensor.to(present)):
                replaced.append(name)
        else:
            left_out.append(name)
    if left_out:
        warnings.warn(
            f"adapter file: left out {len(left_out)} of {len(state_dict)} tensors, which are not this adapter's: "
            f"{', '.join(left_out[:3])}{', …' if len(left_out) > 3 else ''}",
            stacklevel=2,
        )
    if replaced:
        warnings.warn(f"adapter file: replaces the base model's {', '.join(replaced)}", stacklevel=2)
    return taken


def check_state_dict(adapter: Adapter[Any], model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Refuse an adapter file with missing or non-finite values.

    Args:
        adapter: the adapter that is being loaded.
        model: with the adapter.
        state_dict: the content of the file, by the names that it has in the model.

    Raises:
        AdapterFileError: naming the first tensor.
    """
    parts = parts_of(adapter, model).items()
    needed = {f"{path}.{name}" for path, part in parts for name, _ in part.named_parameters()}
    if missing := sorted(needed - state_dict.keys()):
        raise AdapterFileError(
            f"adapter file: has no values for {missing[0]} (and {len(missing) - 1} more); "
            "it is incomplete, or belongs to another configuration"
        )
    broken = next((k for k, v in state_dict.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if broken is not None:
        raise AdapterFileError(f"adapter file: {broken} holds NaN or infinite values; the file is damaged")


def _embeddings(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the model's input and output embeddings by name; empty for a model without such methods."""
    weights: dict[str, Tensor] = {}
    inner: Any = model
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            embedding = getattr(inner, getter)()
        except (AttributeError, NotImplementedError):
            continue
        for path, module in model.named_modules():
            if module is embedding:
                weights |= {f"{path}.{name}".removeprefix(PEFT_PREFIX): p for name, p in module.state_dict().items()}
    return weights
