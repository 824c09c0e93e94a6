"""State that an adapted model has once, however many adapters it has and however peft attached them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from genft.api.method import Method
from genft.bridge import together
from genft.bridge.forward_pass import ForwardPass
from genft.bridge.shared import SharedFactors, refuse_reentrant_checkpoints
from genft.bridge.update_cache import UpdateCache


class Root:
    """Stored as an attribute of the adapted model itself, so that every tuner of the model finds it.

    Attributes:
        forward_pass: tracks the model's forward passes.
        update_cache: the cached updates for evaluation.
    """

    ATTRIBUTE = "_genft_root"

    def __init__(self, model: nn.Module) -> None:
        self.forward_pass = ForwardPass()
        self.update_cache = UpdateCache(self.forward_pass)
        self._listeners: dict[tuple[str, str], Method] = {}
        self._fast_paths: list[tuple[nn.TransformerEncoderLayer, int]] = []
        self._handles = (
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._end, always_call=True),
        )

    @classmethod
    def of(cls, model: nn.Module) -> Root:
        """The root object of ``model``, or of the model that it wraps; created if there is none."""
        root = getattr(model, cls.ATTRIBUTE, None)  # a PeftModel forwards attributes that it does not have itself
        if not isinstance(root, cls):
            root = model.__dict__[cls.ATTRIBUTE] = cls(model)
        return root

    @classmethod
    def remove(cls, model: nn.Module) -> None:
        """Remove everything that is not part of a layer from ``model`` and from models inside it."""
        for module in list(model.modules()):
            root = module.__dict__.pop(cls.ATTRIBUTE, None)
            if root is not None:
                root._close()
            for name, child in list(module.named_children()):
                if isinstance(child, SharedFactors):
                    delattr(module, name)

    def _close(self) -> None:
        for handle in self._handles:
            handle.remove()
        for layer, flag in self._fast_paths:
            layer.activation_relu_or_gelu = flag

    def switch_fast_path_off(self, layer: nn.TransformerEncoderLayer) -> None:
        """Stop torch from fusing the whole layer in evaluation mode, which reads weights directly and bypasses
        adapters; with this flag at 0, it computes module by module."""
        if layer.activation_relu_or_gelu:
            self._fast_paths.append((layer, layer.activation_relu_or_gelu))
            layer.activation_relu_or_gelu = 0

    def listen(self, prefix: str, adapter_name: str, method: Method) -> None:
        """Call the method's ``before_forward``, if it overrides it, before every forward pass in training."""
        self._listeners.pop((prefix, adapter_name), None)
        if method.overrides("before_forward"):
            self._listeners[prefix, adapter_name] = method

    def _begin(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():  # a counter in a compiled graph would recompile it every time
            return
        self.forward_pass.begin()
        if module.training:
            refuse_reentrant_checkpoints(module)
            for method in self._listeners.values():
                method.before_forward()
            together.compute(self.forward_pass, module)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            together.finish(self.forward_pass, failed=output is None)
            self.forward_pass.end()
