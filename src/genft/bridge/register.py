"""Turn every registered method into a peft method, with a ``PeftType``, a tuner class and a prefix."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any

from peft import PeftModel
from peft.tuners import tuners_utils
from peft.utils import PeftType, register_peft_method, save_and_load
from torch import nn

from genft.api.config import AdapterConfig
from genft.api.method import Method, WeightMethod
from genft.api.registry import MethodInfo
from genft.bridge.shared import SharedFactors
from genft.bridge.tuner import BlockTuner, BridgeTuner, WeightTuner


def register_all(methods: Iterable[MethodInfo]) -> None:
    """Register our own methods with peft, which then finds them by the ``peft_type`` of a configuration."""
    for info in methods:
        if info.method is not None:
            register(info, info.method)


def _is_no_base_weight(collect: Any) -> Any:
    """Extend peft's list of what ``get_base_model_state_dict`` leaves out by the shared factors on the model's root,
    because peft expects an adapter's tensors only in its layers and on its tuner."""

    def collect_all(model: Any) -> set[str]:
        paths = {path for path, m in model.base_model.model.named_modules() if isinstance(m, SharedFactors)}
        return collect(model) | paths

    return collect_all


def _with_our_part(write: Any) -> Any:
    """peft's way to write a model card, which a Trainer uses last: our part of the card stays in it."""

    @functools.wraps(write)
    def write_both(model: PeftModel, output_dir: str) -> None:
        write(model, output_dir)
        config: Any = model.active_peft_config
        if isinstance(config, AdapterConfig):
            config.write_card(output_dir, type(model.get_base_model()).__name__)

    return write_both


PeftModel.create_or_update_model_card = _with_our_part(  # type: ignore[method-assign]
    PeftModel.create_or_update_model_card
)


def _belongs_to_a_tuner(collect: Any) -> Any:
    """peft's list of what a tuner leaves trainable when it freezes the base, with our shared factors: another method
    under the name of an adapter of ours must freeze all of that adapter or nothing."""

    def collect_all(model: nn.Module, adapter_name: str | None = None) -> set[str]:
        shared = {path for path, m in model.named_modules() if isinstance(m, SharedFactors)}
        return collect(model, adapter_name) | (shared if adapter_name is None else set())

    return collect_all


save_and_load._get_adapter_state_dict_key_prefixes = _is_no_base_weight(
    save_and_load._get_adapter_state_dict_key_prefixes
)
tuners_utils._get_tuner_state_dict_key_prefixes = _belongs_to_a_tuner(tuners_utils._get_tuner_state_dict_key_prefixes)


def register(info: MethodInfo, method: type[Method]) -> None:
    """Register one method with peft; ``method`` is the class with its mathematics."""
    add_peft_type(info.name)
    tuner = tuner_class(info.name, method)
    register_peft_method(name=info.name, config_cls=info.config, model_cls=tuner, prefix=tuner.prefix)


def add_peft_type(name: str) -> None:
    """Add a member to peft's ``PeftType``.

    peft refuses to register names outside this enumeration, and much code reads ``peft_type.value`` or iterates over
    the enumeration, so the member is created in the same way as ``enum`` itself does.
    """
    value = name.upper()
    if value in PeftType.__members__:
        return
    member = str.__new__(PeftType, value)
    member._name_ = value
    member._value_ = value
    setattr(PeftType, value, member)  # where Python 3.12 and later look it up; only possible before it is a member
    PeftType._member_map_[value] = member
    PeftType._member_names_.append(value)
    PeftType._value2member_map_[value] = member


def tuner_class(name: str, method: type[Method]) -> type[BridgeTuner]:
    """Create the tuner class for one method. It becomes an attribute of this module, so that pickle finds it."""
    class_name = f"{method.__name__}Model"
    tuner = type(
        class_name,
        (WeightTuner if issubclass(method, WeightMethod) else BlockTuner,),
        {
            "__module__": __name__,
            "__doc__": f"peft tuner of {method.__name__}.",
            "prefix": f"{name}_",
            "method_class": method,
        },
    )
    setattr(sys.modules[__name__], class_name, tuner)
    return tuner
