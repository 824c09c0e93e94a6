"""Adapt pretrained transformers by learning the update from the pretrained weight itself.

Importing ``genft`` registers its methods with ``peft``; from then on peft's own functions know them::

    from genft import GenFTConfig
    from peft import get_peft_model

    model = get_peft_model(model, GenFTConfig(task_type="SEQ_CLS"))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genft.bridge.fingerprint import allow_other_base
from genft.bridge.register import register_all
from genft.errors import (
    AdapterFileError,
    BaseMismatchError,
    ConfigError,
    DataError,
    GenFTError,
    MergeError,
    TargetError,
    TrainingError,
)
from genft.methods import METHODS, get_method
from genft.methods.adaptformer import AdaptFormerConfig
from genft.methods.bitfit import BitFitConfig
from genft.methods.genft import GenFTConfig
from genft.methods.lora_slices import LoraSlicesConfig
from genft.methods.vectorfit import VectorFitConfig

if TYPE_CHECKING:
    from genft.adapters.saved import Trained

__version__ = "0.1.0"

register_all(METHODS.values())


def load_adapter(folder: str | Path, base: str | None = None) -> Trained:
    """A folder that ``genft train`` saved, on its base model and ready for ``.predict(...)``.

    Args:
        folder: the saved adapter.
        base: another place of the same base model; by default the one that the adapter names.
    """
    from genft.adapters import saved as artifact  # here, because importing genft must not import the trainer

    return artifact.load(folder, base)


__all__ = [
    "METHODS",
    "AdaptFormerConfig",
    "AdapterFileError",
    "BaseMismatchError",
    "BitFitConfig",
    "ConfigError",
    "DataError",
    "GenFTConfig",
    "GenFTError",
    "LoraSlicesConfig",
    "MergeError",
    "TargetError",
    "TrainingError",
    "VectorFitConfig",
    "allow_other_base",
    "get_method",
    "load_adapter",
]
