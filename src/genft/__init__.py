"""Adapt pretrained transformers by learning the update from the pretrained weight itself.

Importing ``genft`` registers its methods with ``peft``; from then on, peft's own functions accept them::

    from genft import GenFTConfig
    from peft import get_peft_model

    model = get_peft_model(model, GenFTConfig(task_type="SEQ_CLS"))

Under the ``genft`` command, nothing is registered until a command needs it (see ``genft_cli``). The names below are
resolved on first use.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from genft.adapters.saved import load as load_adapter
    from genft.bridge.fingerprint import allow_other_base
    from genft.methods import METHODS, get_method
    from genft.methods.adaptformer import AdaptFormerConfig
    from genft.methods.bitfit import BitFitConfig
    from genft.methods.genft import GenFTConfig
    from genft.methods.lora_slices import LoraSlicesConfig
    from genft.methods.vectorfit import VectorFitConfig

__version__ = "0.1.0"

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

#: Where the names that need peft are defined; importing these modules is deferred.
_HOMES = {
    "METHODS": "genft.methods:METHODS",
    "AdaptFormerConfig": "genft.methods.adaptformer:AdaptFormerConfig",
    "BitFitConfig": "genft.methods.bitfit:BitFitConfig",
    "GenFTConfig": "genft.methods.genft:GenFTConfig",
    "LoraSlicesConfig": "genft.methods.lora_slices:LoraSlicesConfig",
    "VectorFitConfig": "genft.methods.vectorfit:VectorFitConfig",
    "allow_other_base": "genft.bridge.fingerprint:allow_other_base",
    "get_method": "genft.methods:get_method",
    "load_adapter": "genft.adapters.saved:load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = pkgutil.resolve_name(_HOMES[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Register every method with peft, which imports bitsandbytes if it is installed.

    On import, bitsandbytes advises to install what 4-bit models on CPUs would gain from; that is none of our output.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        importlib.import_module("genft.bridge")
    finally:
        logger.setLevel(level)


if "genft_cli" not in sys.modules:
    _register()
