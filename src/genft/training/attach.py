"""Put a method on a model: peft's ``get_peft_model`` with the method's configuration, or a baseline without one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn
from transformers import PreTrainedModel

import genft.bridge  # noqa: F401  registers our methods with peft, which the command line leaves to its users
from genft.api.recipe import Examples
from genft.errors import ConfigError, TargetError, not_one_of
from genft.methods import MethodInfo
from genft.models.architectures import DEFAULT_TARGETS, linear_names
from genft.models.load import LoadedModel, positions
from genft.models.parameters import is_head
from genft.models.prefixes import accept_prefix, families_with_prefix

#: Texts of a batch are padded to a multiple of so many tokens.
PAD_TO = 8


def attach(loaded: LoadedModel, info: MethodInfo, settings: Mapping[str, Any], examples: Examples) -> nn.Module:
    """The model with exactly what ``info`` trains (and the head) set to require gradients.

    Args:
        loaded: the base model with its head.
        info: the method.
        settings: what differs from the defaults of its configuration.
        examples: training examples, for methods that look at data before they start.

    Raises:
        ConfigError: a setting that the method refuses, or targets that this model does not have.
    """
    model = loaded.model
    if info.config is None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(info.name == "full" or is_head(name, loaded.trained_in_full))
        return model
    config = make_config(info, settings, model, loaded.preprocessing.kind)
    if changes_base(config) and config.use_dora:
        raise ConfigError(
            f"use_dora: not with init_lora_weights={config.init_lora_weights!r}, whose adapter is saved as plain LoRA"
        )
    if config.is_prompt_learning:
        _check_prompt(loaded, info, config)
    else:
        config.modules_to_save = list(loaded.trained_in_full)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning) if info.family == "peft" else None
        try:
            info.recipe.prepare(model.eval(), config, examples)
            adapted = get_peft_model(model, config)
        except ConfigError:
            raise
        except NoMatchingPeftModuleError:  # of peft's own methods; ours name the nearest themselves
            wanted, names = config.target_modules, {n.rpartition(".")[2] for n in linear_names(model)}
            first = wanted if isinstance(wanted, str) else sorted(wanted or ())[0]
            what = f"matches nothing in {type(model).__name__}"
            raise TargetError(not_one_of("target_modules", first, sorted(names), what=what)) from None
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as e:
            if info.family != "peft" and not isinstance(e, ValueError):
                raise
            raise TargetError(f"{info.name}: cannot be put on {type(model).__name__}: {e}") from None
    if changes_base(config):
        start = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        adapted.initial_adapter = {name: tensor.detach().clone() for name, tensor in start.items()}
    return adapted


def make_config(info: MethodInfo, settings: Mapping[str, Any], model: PreTrainedModel, kind: str) -> Any:
    """The peft configuration of a method for a model; peft lacks default targets for some families."""
    assert info.config is not None
    model_type = model.config.model_type
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning) if info.family == "peft" else None
        try:
            config = info.config(task_type="SEQ_CLS" if kind == "text" else None, **settings)
        except ConfigError:
            raise
        except (ValueError, TypeError) as e:
            raise ConfigError(f"{info.name}: {e}") from None
    if info.family == "peft" and getattr(config, "target_modules", ()) is None:
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
        if model_type not in getattr(tuner, "target_module_mapping", (model_type,)):
            config.target_modules = DEFAULT_TARGETS.get(model_type)
    return config


def _check_prompt(loaded: LoadedModel, info: MethodInfo, config: Any) -> None:
    """Refuse what peft's prompts cannot do; they know of the head, and of no other module to train."""
    if loaded.fresh:
        raise ConfigError(
            f"{info.name}: {', '.join(loaded.fresh)} is not in the checkpoint, so it must be trained and saved, which "
            "peft does not do beside a prompt; choose another model or method"
        )
    model = loaded.model
    if config.peft_type == PeftType.PREFIX_TUNING and not accept_prefix(model):
        raise ConfigError(
            f"{info.name}: {type(model).__name__} takes no past keys and values, which is what a prefix is; "
            f"choose another method, or a model of a family that takes them: {', '.join(families_with_prefix())}"
        )
    room = (positions(model) - config.num_virtual_tokens) // PAD_TO * PAD_TO
    if (longest := loaded.preprocessing.max_length) and longest > room:
        raise ConfigError(
            f"max_length: received {longest}; beside the {config.num_virtual_tokens} virtual tokens of {info.name}, "
            f"{type(model).__name__} has room for {max(room, 0)}; use --max-length"
        )


def changes_base(config: Any) -> bool:
    """Whether this start of LoRA takes what it trains out of W0, so that its adapter fits no other model."""
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and start.startswith(("pissa", "corda", "olora", "lora_ga"))


def targeted(model: nn.Module) -> list[str]:
    """Paths of the modules that an adapter works on; empty for a baseline, and for a prompt."""
    return list(getattr(model.base_model, "targeted_module_names", ())) if isinstance(model, PeftModel) else []
