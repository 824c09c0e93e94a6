"""Models that accept a prefix: keys and values before the first token.

peft 0.21 passes a prefix as ``past_key_values``, and looks for that name in the signature of a model's forward pass.
transformers 5.24 calls it ``cache``; it still accepts the old name, but no signature shows it. So we check the model
itself for both names.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

OF_PEFT = "past_key_values"
OF_TRANSFORMERS = "cache"
#: Families to suggest in the error message, if the installed transformers gives them a cache.
WELL_KNOWN = ("bert", "roberta", "xlm-roberta", "electra", "gpt2", "llama", "qwen2", "mistral")


def takes_prefix(model: type[nn.Module] | nn.Module) -> bool:
    """Whether the forward pass of a model, or of a model class, accepts keys and values before the first token."""
    return not {OF_PEFT, OF_TRANSFORMERS}.isdisjoint(inspect.signature(model.forward).parameters)


def accept_prefix(model: PreTrainedModel) -> bool:
    """Make ``model`` accept a prefix under the name that peft uses.

    Returns:
        Whether it can: False for a model whose attention does not support a prefix.
    """
    takers = [module for module in (model, model.base_model) if takes_prefix(module)]
    if takers and OF_PEFT not in inspect.signature(takers[0].forward).parameters:
        # A method bound to the module, so that a deep copy of the module calls its own
        takers[0].forward = MethodType(_renamed(type(takers[0]).forward), takers[0])  # type: ignore[method-assign]
    return bool(takers)


def families_with_prefix() -> list[str]:
    """The well-known families whose text classifiers accept a prefix in the installed transformers."""
    return [family for family in WELL_KNOWN if family in CLASSIFIERS and _family_takes_prefix(family)]


def _family_takes_prefix(family: str) -> bool:
    module = importlib.import_module(f"transformers.models.{family.replace('-', '_')}")
    classifier = getattr(module, CLASSIFIERS[family])
    backbone = getattr(module, CLASSIFIERS[family].replace("ForSequenceClassification", "Model"))
    return takes_prefix(classifier) or takes_prefix(backbone)


def _renamed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` with an argument ``past_key_values``, which is passed on as ``cache``."""

    @functools.wraps(forward)
    def with_peft_name(self: nn.Module, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        if past_key_values is not None:
            kwargs[OF_TRANSFORMERS] = past_key_values
        return forward(self, *args, **kwargs)

    signature = inspect.signature(forward)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    added = inspect.Parameter(OF_PEFT, inspect.Parameter.KEYWORD_ONLY, default=None)
    with_peft_name.__signature__ = signature.replace(parameters=[*parameters, added, *rest])  # type: ignore[attr-defined]
    return with_peft_name
