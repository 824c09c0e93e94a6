"""Adapt pretrained transformers by learning the update from the pretrained weight itself.

Importing ``genft`` registers its methods with ``peft``; from then on peft's own functions know them::

    from genft import GenFTConfig
    from peft import get_peft_model

    model = get_peft_model(model, GenFTConfig(task_type="SEQ_CLS"))
"""

from __future__ import annotations

from pathlib import Path

from genft.adapters.saved import Trained
from genft.adapters.saved import load as _load
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

__version__ = "0.1.0"

register_all(METHODS.values())


def load_adapter(folder: str | Path, base: str | None = None) -> Trained:
    """Load a folder that ``genft train`` saved on its base model, ready for ``.predict(...)``.

    Args:
        folder: the saved adapter.
        base: another place of the same base model; by default the one that the adapter names.

    Raises:
        AdapterFileError: a file is missing or damaged.
        BaseMismatchError: the base is not the model that the adapter was trained on.
        ConfigError: the base cannot be found.
    """
    return _load(folder, base)


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
