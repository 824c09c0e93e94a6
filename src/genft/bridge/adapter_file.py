"""Which tensors of a model's state, and of an adapter's file, belong to one adapter.

An adapter may have any name, "0" or "encoder" too, so a name is never looked for anywhere in a path: peft's list of
the containers that adapters live in says where one stands.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from typing import Any

import torch
from peft.tuners.tuners_utils import _filter_state_dict_by_key_prefixes, _get_tuner_state_dict_key_prefixes
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from genft.errors import AdapterFileError

#: What names in an adapter file begin with.
PEFT_PREFIX = "base_model.model."


def adapter_state(
    model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor], others: Collection[str]
) -> dict[str, Tensor]:
    """The entries of a model's state dict that belong to an adapter, by their full names.

    Args:
        model: with its adapters.
        adapter_name: whose entries are wanted.
        state_dict: from which peft has removed every path that has the name of another adapter anywhere in it.
        others: the names of these adapters.
    """
    prefixes = _get_tuner_state_dict_key_prefixes(model, adapter_name=adapter_name)
    own = _filter_state_dict_by_key_prefixes(state_dict, prefixes)
    if not others:
        return own
    complete: dict[str, Tensor] = {}
    for prefix in prefixes:
        complete |= model.get_submodule(prefix).state_dict(prefix=f"{prefix}.")
    parts = {part for name in complete for part in name.split(".")}
    # layer 0 has been removed where an adapter is called "0"
    return complete | own if parts & set(others) else own


def without_adapter_name(key: str, adapter_name: str, prefix: str) -> str:
    """The name in an adapter's file of an entry of the model's state dict.

    ``…query.genft_factors.default.a`` becomes ``…query.genft_factors.a``; a module that is called like the adapter
    keeps its name.

    Args:
        key: a name in the state dict.
        adapter_name: what is taken out.
        prefix: of the tuner's containers, ``genft_``.
    """
    return re.sub(rf"(\.{re.escape(prefix)}\w+)\.{re.escape(adapter_name)}(?=\.|$)", r"\1", key, count=1)


def own_tensors(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an adapter takes from its file: its own tensors, and modules that are saved whole.

    The model's embeddings are taken too, because peft saves them where the vocabulary was resized. A warning says
    when they differ from those of the model, and how many other tensors were left out.

    Args:
        model: with the adapter.
        adapter_name: the adapter that is being loaded.
        state_dict: the content of the file, by the names that it has in the model.
    """
    own = set(adapter_state(model, adapter_name, model.state_dict(), ()))
    for path, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            own |= {f"{path}.{name}" for name in module.adapter_state_dict_load_map(adapter_name).values()}
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
        warnings.warn(f"adapter file: it replaces the base model's {', '.join(replaced)}", stacklevel=2)
    return taken


def check_state_dict(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Refuse an adapter file that lacks values, or has values that are not finite.

    Args:
        model: with the adapter.
        adapter_name: the adapter that is being loaded.
        state_dict: the content of the file, by the names that it has in the model.

    Raises:
        AdapterFileError: naming the first tensor.
    """
    parameters = dict(model.named_parameters())
    needed = {name for name in adapter_state(model, adapter_name, model.state_dict(), ()) if name in parameters}
    if missing := sorted(needed - state_dict.keys()):
        raise AdapterFileError(
            f"adapter file: it has no values for {missing[0]} (and {len(missing) - 1} more); "
            "it is incomplete, or belongs to another configuration"
        )
    broken = next((k for k, v in state_dict.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if broken is not None:
        raise AdapterFileError(f"adapter file: {broken} holds NaN or infinite values; the file is damaged")


def _embeddings(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the model's input and output embeddings by name; none for a model that has no such methods."""
    found: dict[str, Tensor] = {}
    inner: Any = model
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            embedding = getattr(inner, getter)()
        except (AttributeError, NotImplementedError):
            continue
        for path, module in model.named_modules():
            if module is embedding:
                found |= {f"{path}.{name}".removeprefix(PEFT_PREFIX): p for name, p in module.state_dict().items()}
    return found
