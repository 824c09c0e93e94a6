"""The methods, one file each. All files of this folder are imported here, so adding a file adds a method."""

from __future__ import annotations

import importlib
import pkgutil

from genft.api.registry import METHODS, MethodInfo, get_method

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "MethodInfo", "get_method"]
