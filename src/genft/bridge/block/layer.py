"""A transformer block with the computations of any number of adapters inside it."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from genft.api.method import BlockMethod, BlockSite, Factors, Site
from genft.bridge.adapter import Adapter, Carried
from genft.bridge.block import tokens
from genft.bridge.block.frozen import frozen_block
from genft.bridge.block.merging import Merger, TokenMerge, parts_of
from genft.bridge.layer import AdapterLayer
from genft.errors import MergeError
from genft.models.blocks import (
    anatomy_of,
    argument_names,
    attention_end_of,
    attention_of,
    norms_of,
    projections_of,
)

CANNOT_MERGE = (
    "merge: this adapter adds computations to the block, which no change of the base weights can replace; "
    "keep it attached"
)


class _Call(threading.local):
    """Values that one hook passes to a later one in the same call of the block; separate for every thread.

    Attributes:
        stream: the residual stream between attention and MLP.
        prefix: keys and values of the additional tokens for attention.
    """

    stream: Tensor | None = None
    prefix: tuple[Tensor, Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a copy of the block is not being called


class BlockLayer(AdapterLayer[BlockMethod]):
    """A transformer block with the computations of any number of adapters inside it.

    They are attached by hooks inside the block, not around it, so that gradient checkpointing, which recomputes the
    inside of the block, recomputes them too. Only prompts are added outside: they are part of the block's input.
    """

    def __init__(self, base_layer: nn.Module, prefix: str, positions: nn.Parameter | None = None) -> None:
        super().__init__(base_layer, prefix)
        self._positions = [positions]  # in a list, so that torch does not register the model's parameter here too
        self._hooked: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._call = _Call()
        self._token_merge: TokenMerge | None = None
        self._arguments = argument_names(self.get_base_layer())

    def attach(self, adapter: Adapter[BlockMethod], sites: list[Site]) -> None:
        super().attach(adapter, sites)
        for hook in sorted(adapter.method.hooks() - self._hooked):
            self._install(hook)
            self._hooked.add(hook)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        # peft looks for the module's own weight, and a block has none
        like = next((p for p in base_layer.parameters() if p.is_floating_point()), None)
        return (None, None) if like is None else (like.device, like.dtype)

    def _install(self, hook: str) -> None:
        """Register the module hooks that call one hook of the methods."""
        block = self.get_base_layer()
        anatomy, attention, attention_end = anatomy_of(block), attention_of(block), attention_end_of(block)
        projections = projections_of(block)
        if hook == "beside_mlp" and anatomy is not None:
            self._before(block, anatomy.stream, self._read_stream)
            self._after(block, anatomy.mlp_end, self._add_beside)
        elif hook == "after_mlp" and anatomy is not None:
            self._after(block, anatomy.mlp_end, partial(self._add_after, hook))
        elif hook == "after_attention" and attention_end is not None:
            self._after(block, attention_end, partial(self._add_after, hook))
        elif hook == "norm_offset":
            for norm in norms_of(block):
                self._after(block, norm, partial(self._offset_norm, norm))
        elif hook == "beside_projection" and projections is not None:
            for path, parts in parts_of(projections).items():
                self._after(block, path, partial(self._add_to_projection, parts))
        elif hook == "merge" and anatomy is not None and projections is not None:
            merge = self._token_merge = TokenMerge(block, self._merger)
            path, parts = next((path, parts) for path, parts in parts_of(projections).items() if "k" in parts)
            self._after(block, path, partial(merge.read_keys, parts))
            self._before(block, anatomy.stream, merge.merge, prepend=True)  # so that other hooks see the merged tokens
            self._after(block, anatomy.mlp_end, merge.fill_up)
        elif hook == "prefix" and attention is not None:
            names = argument_names(block.get_submodule(attention.path))
            self._before(block, attention.path, partial(self._make_room, names), with_kwargs=True)
            for part, name in enumerate(attention.keys_values):
                fill = self._fill_fused if len(attention.keys_values) == 1 else partial(self._fill, part)
                self._after(block, f"{attention.path}.{name}", fill)
            self._after(block, attention.path, self._leave_room)

    def _before(self, block: nn.Module, path: str, call: Any, **kwargs: Any) -> None:
        self._handles.append(block.get_submodule(path).register_forward_pre_hook(call, **kwargs))

    def _after(self, block: nn.Module, path: str, call: Any) -> None:
        self._handles.append(block.get_submodule(path).register_forward_hook(call))

    def active(self) -> list[tuple[BlockMethod, BlockSite, Factors]]:
        """Method, site and factors of every active adapter."""
        return [(method, site, factors) for _, method, site, factors in self._places()]

    def _places(self) -> list[tuple[Carried, BlockMethod, BlockSite, Factors]]:
        """What every active adapter carries from block to block, its method, its site here and its factors."""
        if self.disable_adapters:
            return []
        return [
            (self.attachments[name].adapter.carried, self.attachments[name].method, site, self.factors(name, site))
            for name in self.active_attachments()
            for site in self.attachments[name].sites
            if isinstance(site, BlockSite)
        ]

    def _cast(self, x: Tensor, factors: Factors) -> Tensor:
        return self._cast_input_dtype(x, next(iter(factors.values())).dtype)

    # ---------------------------------------------------------------- parallel to and after the block's computations

    def _read_stream(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self.disable_adapters:
            self._call.stream = args[0]

    def _add_beside(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        x, self._call.stream = self._call.stream, None
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

    def _add_to_projection(self, parts: str, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        for method, _, factors in self.active():
            x = self._cast(args[0], factors)
            new = [method.beside_projection(part, x, factors, training=self.training) for part in parts]
            output = tokens.added_to_parts(output, new)
        return output

    def _offset_norm(self, norm: str, module: nn.LayerNorm, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # a normalisation is linear in its weight and bias, so the contribution of their offsets can be added
        for method, site, factors in self.active():
            offset = method.norm_offset(site, norm, factors)
            if offset is not None:
                x = self._cast(args[0], factors)
                output = output + F.layer_norm(x, module.normalized_shape, *offset, module.eps).to(output.dtype)
        return output

    # ---------------------------------------------------------------- a prefix of keys and values

    # Attention gets additional tokens at the start, whose keys and values are then replaced; its output for them is
    # dropped. This works for every implementation of attention, and for fused projections.

    def _make_room(self, names: tuple[str, ...], module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        pairs = [method.prefix(factors, training=self.training) for method, _, factors in self.active()]
        if not pairs:
            self._call.prefix = None
            return None
        keys, values = (tokens.joined(list(parts)) for parts in zip(*pairs, strict=True))
        self._call.prefix = keys, values
        return tokens.lengthened(args, kwargs, names, keys.new_zeros(keys.shape), at=0)

    def _fill(self, part: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        prefix = self._call.prefix
        return output if prefix is None else tokens.replaced(output, prefix[part])

    def _fill_fused(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        prefix = self._call.prefix
        if prefix is None:
            return output
        q, k, v = output.chunk(3, dim=-1)
        return tokens.joined([q, *(tokens.replaced(x, new) for x, new in zip((k, v), prefix, strict=True))], -1)

    def _leave_room(self, module: nn.Module, args: Any, output: Any) -> Any:
        prefix, self._call.prefix = self._call.prefix, None
        return output if prefix is None else tokens.shortened(output, prefix[0].shape[0], at=0)

    # ---------------------------------------------------------------- prompts among the tokens of the block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if "second_stream" in self._hooked:
            return self._beside_second_streams(args, kwargs)
        if self._token_merge is not None:
            return self._on_merged_tokens(self._token_merge, args, kwargs)
        if "prompts" not in self._hooked:
            return self.base_layer(*args, **kwargs)
        spent, x = 0, tokens.input_of(args, kwargs, self._arguments)
        for method, site, factors in self.active():
            prompts = method.prompts(self._cast(x, factors) if factors else x, factors, training=self.training)
            spent += method.spent_prompts(site)
            args, kwargs = tokens.unmasked(args, kwargs, self._arguments, method.passing_prompts(site), at=1)
            if prompts is not None:
                args, kwargs = tokens.lengthened(args, kwargs, self._arguments, prompts, at=1)
        return tokens.shortened(self.base_layer(*args, **kwargs), spent, at=1)

    # ---------------------------------------------------------------- a second list of tokens beside the block's own

    def _beside_second_streams(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names, x = self._arguments, tokens.input_of(args, kwargs, self._arguments)
        places = self._places()
        for carried, _, site, _ in places:
            if carried.shows_second and carried.second_stream is not None:
                return carried.second_stream.to(x.dtype) if site.last else x
        output = self.base_layer(*args, **kwargs)

        def run(p: Tensor) -> Tensor:
            own_args, own_kwargs = tokens.exchanged(args, kwargs, names, p.to(x.dtype))
            return tokens.first_of(self.base_layer(*own_args, **own_kwargs)).to(p.dtype)

        keeps = any(carried.keeps_second for carried, *_ in places)
        block = frozen_block(self.get_base_layer(), run, self._positions[0], x.dtype, read_after_last=keeps)
        for carried, method, site, factors in places:
            p = None if site.first else carried.second_stream
            new, carried.second_stream = method.second_stream(
                self._cast(x, factors), p, block, site, factors, training=self.training
            )
            output = output if new is None else tokens.added(output, new)
        return output

    # ---------------------------------------------------------------- fewer tokens from here on

    def _merger(self) -> Merger | None:
        """The adapter that merges tokens in this block; of several, the first active one."""
        found = next((place for place in self._places() if place[1].merges(place[2])), None)
        if found is None:
            return None
        carried, method, _, factors = found
        return Merger(partial(self._merged, method, factors), carried)

    def _merged(self, method: BlockMethod, factors: Factors, x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return method.merge(self._cast(x, factors), self._cast(keys, factors), factors, training=self.training)

    def _on_merged_tokens(self, merge: TokenMerge, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        places = [(carried, site) for carried, _, site, _ in self._places()]
        for carried, site in places:
            carried.sizes = None if site.first else carried.sizes
        sizes = next((carried.sizes for carried, _ in places if carried.sizes is not None), None)
        if sizes is not None:
            args, kwargs = tokens.weighted(args, kwargs, self._arguments, sizes)
        output = merge.shortened(self.base_layer(*args, **kwargs))
        for carried, site in places:
            carried.sizes = None if site.last else carried.sizes
        return output

    # ---------------------------------------------------------------- what peft calls

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the bare block. peft calls this; the tuner has already refused a merge."""
        for handle in self._handles:
            handle.remove()
        return self.get_base_layer()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise MergeError(CANNOT_MERGE)

    def unmerge(self) -> None:
        """Do nothing, because nothing is ever merged."""
