"""Merging an adapter into its base, which gives a plain model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from genft.adapters.card import merged_card
from genft.adapters.saved import Opened, save_preprocessing
from genft.errors import MergeError, first_line


def merge(model: nn.Module) -> PreTrainedModel:
    """The plain transformers model with the adapter folded in; ``model`` itself must not be used afterwards.

    Raises:
        MergeError: the adapter cannot be merged, or the result is not a model that transformers can load.
    """
    if not isinstance(model, PeftModel):
        return cast(PreTrainedModel, model)  # a fully trained model, or a head on a frozen one
    if model.active_peft_config.is_prompt_learning:
        raise MergeError("merge: the adapter is a prompt, which no change of the weights can replace; keep it attached")
    try:
        merged = cast(Any, model).merge_and_unload(safe_merge=True)
    except MergeError:
        raise
    except (NotImplementedError, ValueError, AttributeError) as e:
        raise MergeError(f"merge: {first_line(e)}") from None
    with torch.device("meta"):
        as_loaded = type(merged)(merged.config).state_dict().keys()
    if new := sorted(merged.state_dict().keys() - as_loaded):
        raise MergeError(
            f"merge: {new[0]} is a tensor that {type(merged).__name__} does not have, so transformers would not "
            "load it; keep the adapter attached"
        )
    return merged


def save_merged(folder: Path, model: PreTrainedModel, opened: Opened) -> None:
    """Write a plain model folder, with its preprocessing and its card."""
    model.save_pretrained(folder)
    save_preprocessing(folder, opened)
    merged_card(opened.saved, model.config._name_or_path, type(model).__name__).write(folder)
