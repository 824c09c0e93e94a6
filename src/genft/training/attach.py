"""Attach a method to a model: peft's ``get_peft_model`` with the method's configuration, or a baseline without one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from peft import PeftModel, PromptLearningConfig, get_peft_model, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn
from transformers import PreTrainedModel

import genft.bridge  # noqa: F401  registers our methods with peft, which genft does not do at start-up under the command line
from genft.api.recipe import Examples, Losses
from genft.data.encode import PAD_TO
from genft.errors import ConfigError, TargetError, not_one_of
from genft.methods import MethodInfo
from genft.models.architectures import DEFAULT_TARGETS, linear_names
from genft.models.load import LoadedModel, positions
from genft.models.parameters import is_head
from genft.models.prefixes import accept_prefix, families_with_prefix


def attach(
    loaded: LoadedModel,
    info: MethodInfo,
    settings: Mapping[str, Any],
    examples: Examples,
    losses: Losses = lambda n, size: (),
) -> nn.Module:
    """Attach the method ``info``; exactly its parameters and the head then require gradients.

    Args:
        loaded: the base model with its head.
        info: the method.
        settings: the settings that differ from the defaults of its configuration.
        examples: training examples, for methods that use data before training.
        losses: the training loss of batches, for methods that use its gradients before training.

    Raises:
        ConfigError: the method refuses a setting, or the model does not have the targets.
    """
    model = loaded.model
    if info.config is None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(info.name == "full" or is_head(name, loaded.trained_in_full))
        return model
    config = make_config(info, settings, model, loaded.task_type, loaded.trained_in_full)
    if changes_base(config) and config.use_dora:
        raise ConfigError(
            f"use_dora: cannot be combined with init_lora_weights={config.init_lora_weights!r}, "
            "whose adapter is saved as plain LoRA"
        )
    if isinstance(config, PromptLearningConfig):
        _check_prompt(loaded, info, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning) if info.family == "peft" else None
        try:
            if found := info.recipe.found_in_training(model.eval(), config, losses):
                config = replace(config, **found)
            info.recipe.prepare(model.eval(), config, examples)
            adapted = get_peft_model(model, config)
            info.recipe.initialise(adapted.eval(), config, examples)
        except ConfigError:
            raise
        except NoMatchingPeftModuleError:  # raised by peft's own methods; ours suggest the nearest module themselves
            raise _no_match(model, config.target_modules) from None
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as e:
            if info.family != "peft" and not isinstance(e, ValueError):
                raise
            raise TargetError(f"{info.name}: cannot be attached to {type(model).__name__}: {e}") from None
    if changes_base(config):
        start = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        adapted.initial_adapter = {name: tensor.detach().clone() for name, tensor in start.items()}
    return adapted


def _no_match(model: PreTrainedModel, targets: str | Sequence[str] | None) -> TargetError:
    names = sorted({name.rpartition(".")[2] for name in linear_names(model)})
    first = targets if isinstance(targets, str) else sorted(targets or ())[0]
    return TargetError(not_one_of("target_modules", first, names, what=f"matches nothing in {type(model).__name__}"))


def make_config(
    info: MethodInfo,
    settings: Mapping[str, Any],
    model: PreTrainedModel,
    task_type: str | None,
    trained_in_full: Sequence[str] = (),
) -> Any:
    """The peft configuration of a method for a model; peft lacks default targets for some architectures.

    Args:
        info: a method that has a configuration.
        settings: the settings that differ from the configuration's defaults.
        model: the base model.
        task_type: peft's name for the task, or None.
        trained_in_full: modules that are trained and saved in addition to the adapter.
    """
    if info.config is None:
        raise TypeError(f"the method {info.name!r} has no configuration")
    values = {**settings}
    takes_modules = "modules_to_save" in {f.name for f in fields(info.config)}
    if trained_in_full and takes_modules and not issubclass(info.config, PromptLearningConfig):
        values["modules_to_save"] = list(trained_in_full)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning) if info.family == "peft" else None
        try:
            config = info.config(task_type=task_type, **values)
            if info.family == "peft" and (targets := _missing_targets(config, model.config.model_type)):
                config = info.config(task_type=task_type, **{**values, "target_modules": targets})
        except ConfigError:
            raise
        except (ValueError, TypeError) as e:
            raise ConfigError(f"{info.name}: {e}") from None
    return config


def _missing_targets(config: Any, model_type: str) -> list[str] | None:
    """Default targets of the architecture, if neither the user nor peft names any."""
    if getattr(config, "target_modules", ()) is not None:
        return None
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
    known = model_type in getattr(tuner, "target_module_mapping", (model_type,))
    return None if known else DEFAULT_TARGETS.get(model_type)


def _check_prompt(loaded: LoadedModel, info: MethodInfo, config: Any) -> None:
    """Refuse what peft's prompts do not support: besides the head, they can train no other module."""
    if loaded.fresh:
        raise ConfigError(
            f"{info.name}: {', '.join(loaded.fresh)} is not in the checkpoint, so it must be trained and saved, which "
            "peft cannot do together with a prompt; choose another model or method"
        )
    model = loaded.model
    if config.peft_type == PeftType.PREFIX_TUNING and not accept_prefix(model):
        raise ConfigError(
            f"{info.name}: {type(model).__name__} takes no past keys and values, which a prefix consists of; "
            f"choose another method, or a model of a family that takes them: {', '.join(families_with_prefix())}"
        )
    room = (positions(model) - config.num_virtual_tokens) // PAD_TO * PAD_TO
    if (longest := loaded.preprocessing.max_length) and longest > room:
        raise ConfigError(
            f"max_length: received {longest}; in addition to the {config.num_virtual_tokens} virtual tokens of "
            f"{info.name}, {type(model).__name__} has room for {max(room, 0)}; use --max-length"
        )


def changes_base(config: Any) -> bool:
    """Whether this start of LoRA subtracts the initial adapter from W0, so that the adapter fits no other model."""
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and start.startswith(("pissa", "corda", "olora", "lora_ga"))


def targeted(model: nn.Module) -> list[str]:
    """Paths of the modules that an adapter changes; empty for a baseline, and for a prompt."""
    return list(getattr(model.base_model, "targeted_module_names", ())) if isinstance(model, PeftModel) else []
