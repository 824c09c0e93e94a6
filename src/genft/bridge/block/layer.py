"""A transformer block with the computations of any number of adapters inside it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from genft.api.method import BlockMethod, BlockSite, Factors, Method, Site
from genft.bridge.block import tokens
from genft.bridge.layer import AdapterLayer
from genft.errors import MergeError
from genft.models.blocks import anatomy_of, argument_names, attention_end_of, attention_of, norms_of

CANNOT_MERGE = (
    "merge: this adapter computes inside the block, beside its weights, so no change of the base weights equals it; "
    "keep it attached"
)


class BlockLayer(AdapterLayer):
    """A transformer block with the computations of any number of adapters inside it.

    They are attached by hooks inside the block, not around it, so that gradient checkpointing, which recomputes the
    inside of the block, recomputes them too. Only prompts go around it: they are part of the block's input.
    """

    def __init__(self, base_layer: nn.Module, prefix: str, shared: nn.ModuleDict | None) -> None:
        super().__init__(base_layer, prefix, shared)
        self._hooked: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._stream: Tensor | None = None
        self._prefix: tuple[Tensor, Tensor] | None = None
        self._arguments = argument_names(self.get_base_layer())

    def attach(self, adapter_name: str, method: Method, sites: list[Site]) -> None:
        super().attach(adapter_name, method, sites)
        assert isinstance(method, BlockMethod)
        for hook in sorted(method.hooks() - self._hooked):
            self._install(hook)
            self._hooked.add(hook)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        # peft looks for a weight of the module's own, and a block has none
        like = next((p for p in base_layer.parameters() if p.is_floating_point()), None)
        return (None, None) if like is None else (like.device, like.dtype)

    def _install(self, hook: str) -> None:
        """Register what calls one hook of the methods."""
        block = self.get_base_layer()
        anatomy, attention = anatomy_of(block), attention_of(block)
        assert anatomy is not None

        def after(path: str | None, call: Any, **kwargs: Any) -> None:
            assert path is not None
            self._handles.append(block.get_submodule(path).register_forward_hook(call, **kwargs))

        def before(path: str, call: Any, **kwargs: Any) -> None:
            self._handles.append(block.get_submodule(path).register_forward_pre_hook(call, **kwargs))

        if hook == "beside_mlp":
            before(anatomy.stream, self._read_stream)
            after(anatomy.mlp_end, self._add_beside)
        elif hook == "after_mlp":
            after(anatomy.mlp_end, partial(self._add_after, hook))
        elif hook == "after_attention":
            after(attention_end_of(block), partial(self._add_after, hook))
        elif hook == "norm_offset":
            for norm in norms_of(block):
                after(norm, partial(self._offset_norm, norm))
        elif hook == "prefix":
            assert attention is not None
            names = argument_names(block.get_submodule(attention.path))
            before(attention.path, partial(self._make_room, names), with_kwargs=True)
            for part, name in enumerate(attention.keys_values):
                fill = self._fill_fused if len(attention.keys_values) == 1 else partial(self._fill, part)
                after(f"{attention.path}.{name}", fill)
            after(attention.path, self._leave_room)

    def active(self) -> list[tuple[BlockMethod, BlockSite, Factors]]:
        """Method, site and factors of every adapter that takes part now."""
        found: list[tuple[BlockMethod, BlockSite, Factors]] = []
        if not self.disable_adapters:
            for name in self.active_attachments():
                method, (site,) = self.attachments[name].method, self.attachments[name].sites
                assert isinstance(method, BlockMethod)
                assert isinstance(site, BlockSite)
                found.append((method, site, self.factors(name, site)))
        return found

    def _cast(self, x: Tensor, factors: Factors) -> Tensor:
        return self._cast_input_dtype(x, next(iter(factors.values())).dtype)

    # ---------------------------------------------------------------- beside and after the block's own computations

    def _read_stream(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self.disable_adapters:
            self._stream = args[0]

    def _add_beside(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        x, self._stream = self._stream, None
        if x is not None:
            for method, _, factors in self.active():
                added = method.beside_mlp(self._cast(x, factors), factors, training=self.training)
                output = output + added.to(output.dtype)
        return output

    def _add_after(self, hook: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        for method, _, factors in self.active():
            added = getattr(method, hook)(self._cast(output, factors), factors, training=self.training)
            output = output + added.to(output.dtype)
        return output

    def _offset_norm(self, norm: str, module: nn.LayerNorm, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # a normalisation is linear in its weight and bias, so offsets of them add what they would give alone
        for method, site, factors in self.active():
            offset = method.norm_offset(site, norm, factors)
            if offset is not None:
                x = self._cast(args[0], factors)
                output = output + F.layer_norm(x, module.normalized_shape, *offset, module.eps).to(output.dtype)
        return output

    # ---------------------------------------------------------------- a prefix of keys and values

    # Attention runs over some more tokens, first in the list, whose keys and values are then replaced; what it
    # gives for them is dropped. This serves every implementation of attention, and fused projections.

    def _make_room(self, names: tuple[str, ...], module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        pairs = [method.prefix(factors, training=self.training) for method, _, factors in self.active()]
        if not pairs:
            self._prefix = None
            return None
        keys, values = (tokens.joined(list(parts)) for parts in zip(*pairs, strict=True))
        self._prefix = keys, values
        return tokens.lengthened(args, kwargs, names, keys.new_zeros(keys.shape), at=0)

    def _fill(self, part: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if self._prefix is None:
            return output
        return tokens.replaced(output, self._prefix[part])

    def _fill_fused(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if self._prefix is None:
            return output
        q, k, v = output.chunk(3, dim=-1)
        return tokens.joined([q, *(tokens.replaced(x, new) for x, new in zip((k, v), self._prefix, strict=True))], -1)

    def _leave_room(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._prefix is None:
            return output
        extra = self._prefix[0].shape[0]
        self._prefix = None
        return tokens.shortened(output, extra, at=0)

    # ---------------------------------------------------------------- prompts among the tokens of the block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if "prompts" not in self._hooked:
            return self.base_layer(*args, **kwargs)
        spent = 0
        for method, site, factors in self.active():
            prompts = method.prompts(factors, training=self.training)
            spent += method.spent_prompts(site)
            if prompts is not None:
                args, kwargs = tokens.lengthened(args, kwargs, self._arguments, prompts, at=1)
        return tokens.shortened(self.base_layer(*args, **kwargs), spent, at=1)

    # ---------------------------------------------------------------- what peft calls

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The bare block again (peft calls this; the tuner refuses a merge before)."""
        for handle in self._handles:
            handle.remove()
        return self.get_base_layer()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise MergeError(CANNOT_MERGE)

    def unmerge(self) -> None:
        """Nothing is ever merged."""
